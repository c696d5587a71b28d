"""Flow runs and their processes: the next command sets a run whose process was killed to Crashed.

Prefect leaves such a run RUNNING for ever. `.espalier/runs/<flow run>.json` says whose each run is from its begin to
its end; a file whose process is gone is what a kill left.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import httpx

from tasks.machine.process_identity import Owner
from tasks.store.canonical_json import write_json

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

RUNS = Path(".espalier") / "runs"
HEALTH_SECONDS = 3.0


@contextlib.contextmanager
def record_owner(workspace: Path) -> Iterator[None]:
    """Inside the block, in a flow, record that this process runs the present flow run.

    It stays on record where Prefect's server cannot be told of the end: the next command tells it.
    """
    from prefect.runtime import flow_run

    file = Path(workspace) / RUNS / f"{flow_run.id}.json"
    write_json(file, Owner.here().facts())
    try:
        yield
    finally:
        if _server_answers():
            file.unlink(missing_ok=True)


def _server_answers() -> bool:
    from prefect import get_client

    with get_client(sync_client=True) as client:
        url = f"{str(client.api_url).rstrip('/')}/health"
    try:
        # Asked once and not through the client, which would try for a minute.
        return httpx.get(url, timeout=HEALTH_SECONDS, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def abandoned_runs(workspace: Path) -> dict[UUID, Owner]:
    """The flow runs of this workspace whose process is gone; those of other machines are left alone."""
    runs = {}
    for file in sorted((Path(workspace) / RUNS).glob("[!.]*.json")):
        # One that another process takes away now is not left behind.
        with contextlib.suppress(FileNotFoundError):
            owner = Owner(**json.loads(file.read_text()))
            if owner.is_gone():
                runs[UUID(file.stem)] = owner
    return runs


def reconcile(workspace: Path) -> list[str]:
    """Tell Prefect of every flow run that a killed process left unfinished; returns the names of these runs.

    Nothing is asked of Prefect where nothing was left behind.
    """
    runs = abandoned_runs(workspace)
    if not runs:
        return []
    from prefect import get_client

    crashed = []
    with get_client(sync_client=True) as client:
        for run_id, owner in runs.items():
            crashed += _crash(client, run_id, f"{owner} was killed during the run; what it stored is kept")
            (Path(workspace) / RUNS / f"{run_id}.json").unlink(missing_ok=True)
    return crashed


def clear_deployment(deployment: str) -> list[str]:
    """Clear the unfinished flow runs that a killed `serve` left of its deployment.

    Runs that are late go, for the schedule makes new ones; runs that were handed out and never began are Crashed.
    To be called while nobody serves it. Returns the names of the runs that are Crashed now.

    Args:
        deployment: "flow/deployment".
    """
    from prefect import get_client
    from prefect.client.schemas.filters import DeploymentFilter, FlowFilter, FlowRunFilter

    flow, _, name = deployment.partition("/")
    crashed = []
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(
            flow_filter=FlowFilter(name={"any_": [flow]}),
            deployment_filter=DeploymentFilter(name={"any_": [name]}),
            flow_run_filter=FlowRunFilter(state={"type": {"any_": ["SCHEDULED", "PENDING"]}}),
        ):
            if run.state_type.value == "SCHEDULED":
                client.delete_flow_run(run.id)
            else:
                crashed += _crash(client, run.id, "whoever was to begin the run was killed before it began")
    return crashed


def _crash(client: "SyncPrefectClient", run_id: UUID, message: str) -> list[str]:
    """[name of the run], [] where it has ended, or this server does not know it."""
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    try:
        run = client.read_flow_run(run_id)
    except ObjectNotFound:
        return []
    if run.state is None or run.state.is_final():
        return []
    unfinished = TaskRunFilter(state={"type": {"any_": ["PENDING", "RUNNING"]}})
    for task_run in client.read_task_runs(
        flow_run_filter=FlowRunFilter(id={"any_": [run_id]}), task_run_filter=unfinished
    ):
        client.set_task_run_state(task_run.id, Crashed(message=message), force=True)
    client.set_flow_run_state(run_id, Crashed(message=message), force=True)
    return [run.name]
