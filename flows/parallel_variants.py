"""Compress variants in parallel on the workers of a Prefect task runner: threads, processes, Dask or Ray.

A worker opens the workspace by its path and makes one variant in the shared store; what comes back is which steps it
took. Two workers that want one step compute it once, for the second waits.
"""

from pathlib import Path
from typing import Any

import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed

from flows.sweep_variants import Axes, expand_sweep
from pruning_core.errors import ComputationError, InputError
from tasks.engine.step_log import StepLog
from tasks.orchestration import temporary_servers
from tasks.orchestration.step_tasks import prefect_driver
from tasks.parallel.resident_tasks import LocalWork, end_with_parent
from tasks.parallel.task_runners import task_runner
from tasks.pipeline.open_pipeline import evaluate_variant, open_pipeline
from tasks.store.temporary_dirs import full_disk
from tasks.workspace.workspace import Workspace


def make_variants(workspace: Workspace, names: list[str], log: StepLog, axes: Axes | None = None) -> dict[str, str]:
    """Compress and evaluate variants on the workers of `compute.variants`; returns failed variants with the reason.

    What was done is noted in `log` as each variant is finished.

    Args:
        names: variants; dense is evaluated already.
        axes: of a sweep, whose variants are not those of params.yaml.

    Raises:
        InputError: Dask or Ray is not installed.
    """
    workers = workspace.settings.compute.variants
    failed: dict[str, str] = {}

    def make_all() -> None:
        given = str(workspace.root), list(workspace.overrides), axes
        # The last bits of a result depend on the number of threads: a worker has as many as this process would use.
        begun = {make.submit(*given, name, torch.get_num_threads()): name for name in names}
        for future in as_completed(list(begun)):
            result = future.result(raise_on_failure=False)
            if isinstance(result, BaseException):
                failed[begun[future]] = reason(result, workspace.hidden)
            else:
                log.add(result)

    here = LocalWork(make_all)

    @flow(name="variants side by side", task_runner=task_runner(workers), persist_result=False)
    def side_by_side() -> None:
        here.work()

    with temporary_servers.share_server():
        side_by_side()
    return failed


@task(name="variant", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def make(root: str, overrides: list[str], axes: Axes | None, name: str, threads: int) -> list[dict[str, Any]]:
    """The Prefect task of one variant: compress and evaluate it in this process; returns the records of its steps."""
    end_with_parent()
    torch.set_num_threads(threads)
    workspace = Workspace.open(Path(root), overrides)
    if axes is not None:
        workspace, _ = expand_sweep(workspace, axes)
    log = StepLog(prefect_driver)
    pipeline = open_pipeline(workspace, log)
    # A worker of a cluster lives on, and does not keep the store from being collected then.
    with pipeline.context.store.use.shared():
        evaluate_variant(pipeline, name)
    return log.records


def reason(error: BaseException, place: Path) -> str:
    """One sentence for an error; with the type's name if it is not one of this project's.

    Args:
        place: where the run writes; a full disk is told with it.
    """
    if sentence := full_disk(error, place):
        return sentence
    text = str(error).strip() or repr(error)
    return text if isinstance(error, ComputationError | InputError) else f"{type(error).__name__}: {text}"
