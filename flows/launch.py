"""Start a flow from the command line: Prefect's settings, a running server if there is one, progress."""

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import httpx

from flows.console.progress_bars import show_bars
from flows.sweep_variants import expand_sweep
from pruning_core.errors import ComputationError, InputError
from pruning_core.settings.recipe import BASELINE
from tasks.engine.step_log import CACHED, listening
from tasks.machine import process_identity
from tasks.orchestration import flow_runs, prefect_settings, temporary_servers
from tasks.tracking import runs
from tasks.workspace.workspace import HIDDEN, Workspace

FLOWS = {
    "compress": "flows.compress",
    "compare": "flows.compress",
    "sweep": "flows.sweep",
    "scheduled": "flows.scheduled",
    "export": "flows.export",
}
"""Flow -> its module, which imports Prefect and is imported late."""


def run_flow(name: str, quiet: bool, overrides: list[str] | None, **parameters: Any) -> Any:
    """Run the flow of that name in the current folder, showing each step; returns what it returns."""
    # Bad settings are told before a server is started.
    workspace = open_scheduled(None, overrides) if name == "scheduled" else Workspace.open(None, overrides)
    if "axes" in parameters:
        workspace, _ = expand_sweep(workspace, parameters["axes"])
    with prepare_flow(workspace, _variant_names(workspace, name, parameters), FLOWS[name], quiet) as module:
        try:
            return getattr(module, name)(root=str(workspace.root), overrides=overrides or [], **parameters)
        except httpx.HTTPError as error:
            failed = isinstance(error, httpx.HTTPStatusError) and error.response.is_server_error
            if not failed and not isinstance(error, httpx.TransportError):
                raise
            raise ServerLost(
                f"Prefect's server {'failed' if failed else 'stopped answering'} during the run; what was done is "
                "stored, and the same command goes on from there"
            ) from error


class ServerLost(ComputationError):
    """Prefect's server was lost during the flow."""


def _variant_names(workspace: Workspace, flow: str, parameters: dict[str, Any]) -> list[str]:
    """The variants that a flow compresses."""
    if parameters.get("variant") == BASELINE:
        return []
    if "variant" in parameters:
        return [workspace.settings.recipe(parameters["variant"]).name]
    scheduled = workspace.settings.schedule.variants if flow == "scheduled" else None
    return scheduled or list(workspace.settings.variants)


def open_scheduled(root: Path | None, overrides: list[str] | None) -> Workspace:
    """The workspace, which must have a section `schedule`."""
    workspace = Workspace.open(root, overrides)
    if workspace.settings.schedule is None:
        raise InputError(
            "params.yaml has no section schedule; add one, such as "
            "schedule: {cron: 0 3 * * *, gates: {perplexity: 1.05}}"
        )
    return workspace


@contextlib.contextmanager
def prepare_flow(workspace: Workspace, named: list[str], module: str, quiet: bool) -> Iterator[ModuleType]:
    """Prepare the run of a flow: check memory and disk, start a server, and show each step inside the block.

    Flow runs that killed processes left RUNNING are set to Crashed first. Yields the flow's imported module.
    """
    prefect_settings.apply(workspace.root)
    temporary_servers.stop_orphans()
    process_identity.claim()
    _use_running_server(workspace.root)
    with show_bars(quiet) as (console, bars):
        ready = bars.waiting("starting Prefect")
        begun = [ready]

        def show(record: dict[str, Any]) -> None:
            while begun:
                begun.pop()()
            colour = "dim" if record["state"] == CACHED else "green"
            console.print(
                f"[{colour}]{_word(record):8} {record['seconds']:7.1f} s  {record['label']}[/]",
                highlight=False,
            )

        server = temporary_servers.start()
        # Importing what computes takes as long as the server takes to start: both at once.
        from flows.plan.fit import check_room

        flows = importlib.import_module(module)

        check_room(workspace, named, evaluates=True)
        for what in reconcile(workspace.root, server):
            console.print(what, highlight=False)
        with listening(show):
            yield flows


def report_path() -> Path:
    """Where the report of the current folder is written."""
    from flows.compress import REPORT

    return Path.cwd() / HIDDEN / REPORT


def _word(record: dict[str, Any]) -> str:
    return "cached" if record["state"] == CACHED else "computed"


def _use_running_server(root: Path) -> None:
    from flows.servers import ui_servers

    url = ui_servers.api_url(root)
    if url and "PREFECT_API_URL" not in os.environ:
        os.environ["PREFECT_API_URL"] = url


def reconcile(workspace: Path, server: Thread | None = None) -> list[str]:
    """Mark flow runs and MLflow runs whose process is gone as ended; returns a sentence for each.

    Those of living processes and of other machines are left alone. MLflow is asked while Prefect's `server` starts,
    for importing it takes seconds.
    """
    mlflow_sentences = [
        f"MLflow run {run} was left by a process that is gone: KILLED" for run in runs.end_abandoned(workspace)
    ]
    if server:
        server.join()
    flow_sentences = [
        f"flow run {run} was left by a process that is gone: Crashed" for run in flow_runs.reconcile(workspace)
    ]
    return flow_sentences + mlflow_sentences
