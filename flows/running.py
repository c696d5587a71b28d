"""Starting a flow from the command line: Prefect's settings, a running server if there is one, progress."""

import os
from pathlib import Path
from typing import Any

from flows.bars import shown_bars
from tasks import prefect_settings, temporary_servers
from tasks.steps_seen import CACHED, listening
from tasks.workspace import HIDDEN, Workspace


def run_flow(name: str, quiet: bool, overrides: list[str] | None, **parameters: Any) -> list[dict[str, Any]]:
    """Run the flow of that name in the current folder, showing each step; returns the records."""
    # Bad settings are told before a server is started.
    workspace = Workspace.open(None, overrides)
    if "variant" in parameters:
        workspace.settings.recipe(parameters["variant"])
    prefect_settings.apply(workspace.root)
    temporary_servers.stop_orphans()
    temporary_servers.claim()
    _use_running_server(workspace.root)
    with shown_bars(quiet) as (console, bars):
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
        from flows import variants
        from flows.planning import check_room

        named = [parameters["variant"]] if "variant" in parameters else list(workspace.settings.variants)
        check_room(workspace, named, evaluates=True)
        if server:
            server.join()
        with listening(show):
            return getattr(variants, name)(root=str(workspace.root), overrides=overrides or [], **parameters)


def report_path() -> Path:
    """Where the report of the current folder is written."""
    from flows.variants import REPORT

    return Path.cwd() / HIDDEN / REPORT


def _word(record: dict[str, Any]) -> str:
    return "cached" if record["state"] == CACHED else "computed"


def _use_running_server(root: Path) -> None:
    from tasks import services

    url = services.api_url(root)
    if url and "PREFECT_API_URL" not in os.environ:
        os.environ["PREFECT_API_URL"] = url
