"""Steps as Prefect tasks: a call goes in, a reference comes out, and the store does the caching.

Apply `tasks.orchestration.prefect_settings` before this module is imported.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

from prefect import Task, task
from prefect.transactions import BaseTransaction, IsolationLevel

from tasks.engine.step import Call, Context, direct
from tasks.orchestration.store_view import FlockLockManager, KeyOfCall, StoreView
from tasks.store.artifact import Artifact
from tasks.store.store import Store

CACHED = "Cached"


def prefect_driver(context: Context, call: Call) -> Artifact:
    """Run a call as a Prefect task, in a flow or alone.

    The task run is called by the label, and ends in the state `Cached` when the store had the result. An exception of
    the step is raised as it is.
    """
    run = prefect_task(call.step.name, context.store.root, context.workspace)
    with _transaction_of_its_own():
        state = run(call, return_state=True)
    return Artifact.from_reference(state.result(), hit=state.name == CACHED)


@contextlib.contextmanager
def _transaction_of_its_own() -> Iterator[None]:
    """Inside the block a Prefect task commits when it ends.

    Within another task it would leave that to the outer one: its lock would be held until the outer one ends, and
    for ever when that fails, for a rollback frees no lock of a result that was found.
    """
    outer = BaseTransaction.__var__.set(None)
    try:
        yield
    finally:
        BaseTransaction.__var__.reset(outer)


@functools.cache
def prefect_task(name: str, store_root: Path, workspace: Path) -> Task:
    """The Prefect task of the steps called `name`: task(call) -> reference.

    It may also be submitted to a task runner. A second run of one key at the same time, in any process, waits
    for the first and is `Cached`.
    """
    records = store_root / "prefect" / "records"
    policy = KeyOfCall(
        key_storage=StoreView(store_root=str(store_root), records=str(records)),
        lock_manager=FlockLockManager(store_root / "locks" / "prefect"),
        isolation_level=IsolationLevel.SERIALIZABLE,
    )

    @task(
        name=name,
        task_run_name="{call.label}",
        cache_policy=policy,
        persist_result=True,
        result_serializer="json",
        result_storage=records,
        # The store is asked each time: what is in memory may have been deleted or altered on the disk.
        cache_result_in_memory=False,
    )
    def run(call: Call) -> dict[str, str]:
        # Prefect has asked the store for the key of the call, and holds the lock of that.
        return direct(Context(Store(store_root), workspace), call, missed=True).reference()

    return run
