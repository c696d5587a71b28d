"""The flow `scheduled`: compress a new checkpoint, check the gates, and promote the best variant to champion."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed, State

from flows.compress import run_variants
from flows.launch import open_scheduled
from flows.plan.fit import check_room
from pruning_core.errors import ComputationError, InputError
from tasks.engine.step_log import CACHED, listening
from tasks.orchestration.flow_runs import record_owner
from tasks.orchestration.step_tasks import prefect_driver
from tasks.pipeline.open_pipeline import open_pipeline
from tasks.promotion.decide import decide, scheduled_names, standing_decision
from tasks.promotion.decision_log import Decision, markdown, reasons, sentence
from tasks.versioning import is_repository, push
from tasks.workspace.workspace import Workspace


@flow(name="scheduled", persist_result=False)
def scheduled(root: str = ".", overrides: list[str] | None = None) -> State:
    """Check for a new source checkpoint, settings or code; compress, evaluate and register the variants.

    Returns:
        {"new": whether there was anything to do, "decision": the one that was made or stands}.

    Args:
        root: the folder of params.yaml.
        overrides: "a.b=value" on top of it.
    """
    log = get_run_logger()

    def tell(record: dict[str, Any]) -> None:
        log.info(
            "%s %.1f s  %s", "cached" if record["state"] == CACHED else "computed", record["seconds"], record["label"]
        )

    try:
        workspace = open_scheduled(Path(root), overrides)
        with record_owner(workspace.root), listening(tell):
            decision, new = _look_and_run(workspace)
    except (InputError, ComputationError) as error:
        # Told in the one sentence that it is, not as a traceback.
        return Failed(message=str(error), data=error)
    message = sentence(decision) if new else f"nothing new; decision {decision['number']} stands: {sentence(decision)}"
    log.info("%s", message)
    for line in reasons(decision) if new else []:
        log.info("%s", line)
    return Completed(message=message, data={"new": new, "decision": decision})


def _look_and_run(workspace: Workspace) -> tuple[Decision, bool]:
    if standing := standing_decision(workspace):
        return standing, False
    names = scheduled_names(workspace)
    check_room(workspace, names, evaluates=True)
    failed: dict[str, str] = {}
    records = run_variants(workspace, names, failed)
    if len(failed) == len(names):
        raise ComputationError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    pushed = _push(workspace, [name for name in names if name not in failed])
    decision, new = decide(workspace, open_pipeline(workspace, prefect_driver), records, failed, pushed)
    if new:
        create_markdown_artifact(markdown(decision), key="decision", description=sentence(decision))
    return decision, new


def _push(workspace: Workspace, names: list[str]) -> dict[str, Any]:
    """Whether DVC has the results ("versioned"), which "remote" they went to, and how many "files" were new there."""
    if not is_repository(workspace.root) or workspace.overrides:
        return {"versioned": False, "remote": None, "files": 0}
    if not workspace.settings.schedule.push:
        return {"versioned": True, "remote": None, "files": 0}
    stages = ["tokens", "evaluate-dense", *(f"{stage}@{name}" for name in names for stage in ("prune", "evaluate"))]
    remote, files = push(workspace.root, stages)
    return {"versioned": True, "remote": remote, "files": files}
