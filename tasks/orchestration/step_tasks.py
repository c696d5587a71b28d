"""Steps as Prefect tasks: JSON goes in, a reference comes out, and the store does the caching.

Apply `tasks.orchestration.prefect_settings` before this module is imported.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.transactions import BaseTransaction, IsolationLevel

from tasks.engine.step import Context, Step
from tasks.orchestration.store_view import FlockLockManager, StepKey, StoreView, artifacts
from tasks.store.artifact import Artifact
from tasks.store.store import Store

CACHED = "Cached"


def prefect_run(context: Context) -> Callable[..., Artifact]:
    """A `run` for `Context` that runs each step as a Prefect task, in a flow or alone.

    The task run is called by the label, or the step's name, and ends in the state `Cached` when the store had
    the result. An exception of the step is raised as it is.
    """

    def run(step: Step, params: dict[str, Any], inputs: dict[str, Artifact], label: str = "") -> Artifact:
        # Bad params are the caller's error: raised here, not inside Prefect, which would only log them.
        step.key(params, inputs)
        references = {name: artifact.reference() for name, artifact in inputs.items()}
        started = prefect_task(step, context.store.root, context.workspace)
        with _transaction_of_its_own():
            state = started(params, references, label or step.name, return_state=True)
        return Artifact.from_reference(state.result(), hit=state.name == CACHED)

    return run


@contextlib.contextmanager
def _transaction_of_its_own() -> Iterator[None]:
    """Inside the block a task commits when it ends.

    Within another task it would leave that to the outer one: its lock would be held until the outer one ends, and
    for ever when that fails, for a rollback frees no lock of a result that was found.
    """
    outer = BaseTransaction.__var__.set(None)
    try:
        yield
    finally:
        BaseTransaction.__var__.reset(outer)


@functools.cache
def prefect_task(step: Step, store_root: Path, workspace: Path) -> Task:
    """The Prefect task of a step: task(params, references, label) -> reference, all JSON.

    It may also be submitted to a task runner. A second run of one key at the same time, in any process, waits
    for the first and is `Cached`.
    """
    records = store_root / "prefect" / "records"
    policy = StepKey(
        step=step,
        key_storage=StoreView(store_root=str(store_root), records=str(records)),
        lock_manager=FlockLockManager(store_root / "locks" / "prefect"),
        isolation_level=IsolationLevel.SERIALIZABLE,
    )

    @task(
        name=step.name,
        task_run_name="{label}",
        cache_policy=policy,
        persist_result=True,
        result_serializer="json",
        result_storage=records,
        # The store is asked each time: what is in memory may have been deleted or altered on the disk.
        cache_result_in_memory=False,
    )
    def run(params: dict[str, Any], references: dict[str, dict[str, str]], label: str) -> dict[str, str]:
        context = Context(Store(store_root), workspace)
        return step.run(context, params, artifacts(references), label).reference()

    return run
