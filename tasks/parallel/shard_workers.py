"""Calibration shared with other processes for as long as a command runs, where `compute.shard_workers` is set."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from tasks.parallel import process_group
from tasks.workspace.workspace import Workspace


@contextlib.contextmanager
def shard_workers(workspace: Workspace) -> Iterator[None]:
    """Inside the block steps that calibrate are shared with the workers of `compute.shard_workers`, where it is set."""
    settings = workspace.settings.compute
    if settings.shard_workers is None:
        yield
        return
    # A stage of DVC that has no such workers needs no Prefect, which takes seconds to import.
    from tasks.parallel.shard_team import Team

    team = Team(replace(settings.shard_workers, count=settings.shards - 1))
    with process_group.summoned_by(team.gather):
        try:
            yield
            process_group.stop()
        finally:
            # After an error others may wait for a sum still: they end with one of their own, which nobody asks for.
            process_group.leave()
            team.part()
