"""`espalier serve`: run the scheduled flow on its cron from this machine until stopped; no process is left behind."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.launch import open_scheduled
from flows.servers import ui_servers
from pruning_core.errors import InputError
from pruning_core.settings.schedule import Schedule
from tasks.machine import process_identity
from tasks.machine.process_identity import Owner
from tasks.orchestration import prefect_settings
from tasks.store.canonical_json import digest_of, write_json
from tasks.store.locks import locked_at_once
from tasks.workspace.workspace import Workspace

if TYPE_CHECKING:
    from prefect.runner import Runner

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What the flow tells, its reasons above all, goes to this terminal and to Prefect's pages.
LOGS = {"PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO"}

Tell = Callable[[str], None]


def print_decision(outcome: dict[str, Any], tell: Tell) -> None:
    """Print the decision and its reasons, line by line."""
    from tasks.promotion.decision_log import DECISIONS, reasons, sentence

    decision = outcome["decision"]
    tell(f"{sentence(decision)}." if outcome["new"] else f"Nothing new: {sentence(decision)}.")
    for line in reasons(decision):
        tell(line)
    tell(f"\ndecision   {Path.cwd() / DECISIONS / str(decision['number'])}.html")


def serve(overrides: list[str] | None, every: float | None, tell: Tell) -> None:
    """Serve the flow until this process is told to stop (Ctrl-C, SIGTERM, a closed terminal).

    Args:
        every: seconds from run to run, instead of the cron.

    Raises:
        InputError: no schedule, or this workspace is served already.
    """
    workspace = open_scheduled(None, overrides)
    schedule = workspace.settings.schedule
    if every is None and schedule.cron is None:
        raise InputError("schedule.cron is missing in params.yaml; add one, such as cron: 0 3 * * *, or use --now")
    if every is not None and not every >= 1:
        raise InputError(f"--every is a number of seconds, 1 or more, got {every:g}")
    for sign in STOPS:
        # As Ctrl-C, also while the server is being started.
        signal.signal(sign, signal.default_int_handler)
    os.environ.update(LOGS)
    prefect_settings.apply(workspace.root)
    lock = _state(workspace).with_name("serve.lock")
    with locked_at_once(lock, _already_served), _server(workspace) as address:
        os.environ["PREFECT_API_URL"] = address
        process_identity.claim()
        when = f"every {every:g} s" if every is not None else f"on {schedule.cron} ({schedule.timezone})"
        runner = _runner(workspace, schedule, every, tell)
        tell(f"serving {when}; Prefect's pages: {address.removesuffix('/api')}; Ctrl-C stops everything")
        try:
            asyncio.run(_until_stopped(runner))
        finally:
            _ignore_further_stops()
            process_identity.stop_owned(Owner.here())
            _tell_crashed(workspace, tell)
    tell("stopped; what was done is stored, and the next run goes on from there")


def _already_served(lock: Path) -> InputError:
    holder = lock.read_text() or "another process"
    return InputError(f"this workspace is served already, by {holder}; stop that one first")


@contextlib.contextmanager
def _server(workspace: Workspace) -> Iterator[str]:
    """Yield the address of a Prefect server; one started for serving, also by a killed process, is stopped again."""
    root, state = workspace.root, _state(workspace)
    if given := os.environ.get("PREFECT_API_URL"):
        yield given
        return
    running = ui_servers.api_url(root)
    ours = running is None or state.is_file()
    try:
        if ours:
            # Before the start: a kill in between leaves a server that is known to be ours.
            write_json(state, {"started": ["prefect"]})
        if running is None:
            ui_servers.start(root, ["prefect"])
        yield running or str(ui_servers.api_url(root))
    finally:
        _ignore_further_stops()
        if ours:
            ui_servers.stop(root, ["prefect"])
            state.unlink(missing_ok=True)


def _state(workspace: Workspace) -> Path:
    return workspace.hidden / "services" / "serve.json"


def _runner(workspace: Workspace, schedule: Schedule, every: float | None, tell: Tell) -> "Runner":
    """A Prefect runner that starts a process per scheduled run; runs left by a killed process are cleared first."""
    from prefect.flows import EntrypointType
    from prefect.runner import Runner
    from prefect.schedules import Cron, Interval

    from flows.scheduled import scheduled
    from tasks.orchestration.flow_runs import clear_deployment

    # Two workspaces may share a server.
    name = f"{workspace.root.name}-{digest_of(str(workspace.root))[:6]}"
    _tell_crashed(workspace, tell)
    for run in clear_deployment(f"{scheduled.name}/{name}"):
        tell(f"flow run {run} never began: Crashed")
    deployment = scheduled.to_deployment(
        name,
        schedule=Interval(timedelta(seconds=every)) if every else Cron(schedule.cron, timezone=schedule.timezone),
        parameters={"root": str(workspace.root), "overrides": list(workspace.overrides)},
        description="Compress what is new, judge it, and move the champion where the gates pass.",
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    runner = Runner(name=name, limit=1)
    runner.add_deployment(deployment)
    return runner


async def _until_stopped(runner: "Runner") -> None:
    """Run until a signal arrives, then stop everything that was started here."""
    serving = asyncio.ensure_future(runner.start())
    # The runner sets a handler of its own as its first step; it is replaced here.
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        serving.cancel()
        # The runner waits for its processes, which are made to end.
        loop.run_in_executor(None, process_identity.stop_owned, Owner.here())

    for sign in STOPS:
        loop.add_signal_handler(sign, stop)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def _tell_crashed(workspace: Workspace, tell: Tell) -> None:
    from flows.launch import reconcile

    for left in reconcile(workspace.root):
        tell(left)


def _ignore_further_stops() -> None:
    for sign in STOPS:
        signal.signal(sign, signal.SIG_IGN)
