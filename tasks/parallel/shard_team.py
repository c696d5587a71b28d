"""Shards of the calibration windows held by workers of a Prefect task runner: processes, Dask or Ray.

A worker waits in a task of its own and follows this process through every step that calibrates, as the processes of
`torchrun` do (see `tasks.parallel.process_group`). Workers start with the first such step: what is stored needs none.
"""

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from pruning_core.settings.compute import Workers
from tasks.parallel import process_group
from tasks.parallel.rendezvous import Meeting
from tasks.parallel.resident_tasks import Staying, end_with_parent

POLL_SECONDS = 0.05


@task(name="calibration shard", task_run_name="calibration shard {rank}", cache_policy=NO_CACHE, persist_result=False)
def hold(meeting: Meeting, rank: int, threads: int) -> None:
    """Follow the first process through its steps, in whatever process this is."""
    end_with_parent()
    # The last bits of a result depend on the number of threads.
    torch.set_num_threads(threads)
    process_group.join(meeting.store(), rank, meeting.count)
    try:
        process_group.follow()
    finally:
        process_group.leave()


class Team:
    """The workers of one command."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.held: Staying | None = None

    def gather(self) -> None:
        """Start the workers, again where one was lost, and meet them.

        Raises:
            InputError: Dask or Ray is not installed.
            ComputationError: a worker ended before it came.
        """
        self.part()
        meeting, store = Meeting.call(self.workers.number + 1, here=self.workers.address is None)
        calls = [(meeting, rank, torch.get_num_threads()) for rank in range(1, meeting.count)]
        self.held = Staying("calibration shards", self.workers, hold, calls)
        self.held.wait_until(lambda: meeting.all_came(store), POLL_SECONDS, "compute.shard_workers")
        process_group.join(store, 0, meeting.count)

    def part(self) -> None:
        """Wait until the workers of the last meeting are gone."""
        if self.held is not None:
            self.held.part()
            self.held = None
