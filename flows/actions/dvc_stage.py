"""The stages of dvc.yaml: the same steps through the same store, without Prefect."""

from typing import Any

from flows.console.progress_bars import show_bars
from flows.plan.fit import check_room
from pruning_core.errors import InputError
from pruning_core.settings.recipe import BASELINE
from tasks.engine.step import direct
from tasks.engine.step_log import StepLog
from tasks.machine import process_identity
from tasks.orchestration import prefect_settings
from tasks.pipeline.open_pipeline import open_pipeline
from tasks.pipeline.variant import Pipeline
from tasks.versioning import StageOutput, evaluation_output, model_output, place, place_figures, tokens_outputs
from tasks.workspace.workspace import Workspace

STAGES = ("tokens", "prune", "evaluate")


def run_stage(name: str, variant: str | None, overrides: list[str] | None) -> list[str]:
    """Compute a stage's outputs and put them into the workspace; returns lines on what was done.

    Raises:
        InputError: an unknown stage or variant, or a variant missing where one is needed.
    """
    if name not in STAGES:
        raise InputError(f"{name!r} is not a stage; stages: {', '.join(STAGES)}")
    if (variant is None) != (name == "tokens"):
        raise InputError(f"stage {name!r} {'takes no' if name == 'tokens' else 'needs a'} variant")
    workspace = Workspace.open(None, overrides)
    # For workers of `compute`, which are Prefect's.
    prefect_settings.apply(workspace.root)
    process_identity.claim()
    if name == "prune" and variant != BASELINE:
        check_room(workspace, [variant], evaluates=False)
    log = StepLog(direct)
    pipeline = open_pipeline(workspace, log)
    with show_bars():
        place(workspace.root, workspace.store, _outputs(name, variant, pipeline))
        if name == "evaluate":
            place_figures(workspace.root, variant, *pipeline.figures(variant))
            # No output of the stage: kept in the store, where a flow finds it.
            pipeline.samples(variant)
    return [f"{_state(record)} {record['label']}" for record in log.records]


def _outputs(name: str, variant: str | None, pipeline: Pipeline) -> list[StageOutput]:
    if name == "tokens":
        return tokens_outputs(pipeline.calibration, pipeline.evaluation)
    if name == "prune":
        if variant == BASELINE:
            raise InputError(f"{BASELINE!r} is the uncompressed model; there is nothing to prune")
        return [model_output(variant, pipeline.model(variant))]
    return [evaluation_output(variant, pipeline.quality(variant))]


def _state(record: dict[str, Any]) -> str:
    return record["state"].lower()
