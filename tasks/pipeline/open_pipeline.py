"""A pipeline ready to run: a workspace and a driver put together."""

from dataclasses import replace

from tasks.engine.look import Look
from tasks.engine.step import Driver, direct
from tasks.pipeline.variant import Pipeline
from tasks.store.store import Store
from tasks.workspace.workspace import Workspace


def open_pipeline(workspace: Workspace, driver: Driver = direct, store: Store | None = None) -> Pipeline:
    """The pipeline of a workspace, whose steps `driver` runs.

    Args:
        driver: `direct`, `prefect_driver`, a `StepLog` of either, or a `Look`, which computes nothing.
        store: where artifacts are; by default the workspace's.
    """
    context = replace(workspace.context(), driver=driver, store=store or workspace.store)
    return Pipeline(context, workspace.settings, enforce=not isinstance(driver, Look))


def evaluate_variant(pipeline: Pipeline, name: str) -> None:
    """Compress a variant and evaluate its quality; its speed is measured later, when nothing else runs."""
    pipeline.quality(name)
    pipeline.lm_eval_answers(name)
    pipeline.samples(name)
