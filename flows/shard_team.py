"""Shards of the calibration windows held by workers of a Prefect task runner: processes, Dask or Ray.

A worker waits in a task of its own and follows this process through every step that calibrates, as the processes of
`torchrun` do (see `tasks.distributed`). Workers start with the first such step: what is stored needs none.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import wait
from prefect.task_runners import TaskRunner

from flows.side_by_side import reason
from flows.task_runners import task_runner
from pruning_core.compute import Workers
from pruning_core.errors import ComputationError, InputError
from tasks import distributed, temporary_servers
from tasks.meeting import Meeting
from tasks.workspace import Workspace

POLL_SECONDS = 0.05


@task(name="calibration shard", task_run_name="calibration shard {rank}", cache_policy=NO_CACHE, persist_result=False)
def hold(meeting: Meeting, rank: int, threads: int) -> None:
    """Follow the first process through its steps, in whatever process this is."""
    # The last bits of a result depend on the number of threads.
    torch.set_num_threads(threads)
    distributed.join(meeting.store(), rank, meeting.count)
    try:
        distributed.follow()
    finally:
        distributed.leave()


class Team:
    """The workers of one command."""

    def __init__(self, workers: Workers, workspace: Workspace) -> None:
        self.workers = workers
        self.place = workspace.hidden
        self.threads = ThreadPoolExecutor(1, "calibration shards")
        self.held: Future | None = None

    def gather(self) -> None:
        """Start the workers, again where one was lost, and meet them.

        Raises:
            InputError: Dask or Ray is not installed.
            ComputationError: a worker ended before it came.
        """
        self.part()
        runner = task_runner(self.workers)
        meeting, store = Meeting.call(self.workers.number + 1, here=self.workers.address is None)
        self.held = self.threads.submit(_hold_all, runner, meeting)
        while not meeting.all_came(store):
            if self.held.done():
                raise self._lost()
            time.sleep(POLL_SECONDS)
        distributed.join(store, 0, meeting.count)

    def _lost(self) -> Exception:
        error = self.held.exception()
        if isinstance(error, InputError):
            return error
        why = reason(error, self.place) if error else "it was stopped"
        return ComputationError(f"a worker of compute.shard_workers ended before it began: {why}")

    def part(self) -> None:
        """Wait until the workers of the last meeting are gone."""
        if self.held is not None:
            self.held.exception()
            self.held = None


def _hold_all(runner: TaskRunner, meeting: Meeting) -> None:
    """One task for each shard but the first; the error of one that failed is raised."""

    @flow(name="calibration shards", task_runner=runner, persist_result=False)
    def shards() -> None:
        held = [hold.submit(meeting, rank, torch.get_num_threads()) for rank in range(1, meeting.count)]
        wait(held)
        for future in held:
            future.result()

    with temporary_servers.shared():
        shards()
