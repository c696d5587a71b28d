"""Calibration windows in shards, each summed by itself and then added up in order: one result, however many processes.

A sum of floats depends on its order. With a fixed number of shards the order is fixed too, so that one process which
takes shard after shard and a process for each shard (`torchrun`) reach the same bits.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.errors import ComputationError, InputError, required


@contextlib.contextmanager
def reaching() -> Iterator[None]:
    """Around calls that wait for other calibration processes: ComputationError where one of them is lost."""
    try:
        yield
    except RuntimeError as error:
        raise ComputationError(
            "another calibration process was lost; the same command goes on at the block it was in"
        ) from error


@dataclass(frozen=True)
class Shards:
    """How calibration is divided.

    Args:
        count: shards.
        rank: the shard that this process holds, in a process group of `count`; None: all of them.
    """

    count: int = 1
    rank: int | None = None

    def ends(self, batches: int) -> list[int]:
        """After how many of all `batches` micro-batches each shard ends; they differ by one micro-batch at most.

        Raises:
            InputError: fewer micro-batches than shards.
        """
        if batches < self.count:
            raise InputError(
                f"{batches} micro-batches of calibration cannot make {self.count} shards; set more "
                "calibration.sequences, a smaller calibration.batch, or fewer compute.shards"
            )
        return [(shard + 1) * batches // self.count for shard in range(self.count)]

    def own(self, windows: Tensor, batch: int) -> Tensor:
        """The windows [sequences, tokens] that this process runs, in micro-batches of `batch`: whole ones."""
        if self.rank is None:
            return windows
        ends = [0, *self.ends(-(-len(windows) // batch))]
        return windows[ends[self.rank] * batch : ends[self.rank + 1] * batch]

    def statistics(self, in_features: int, full: bool, batches: int) -> "ShardedStatistics":
        """An empty accumulator for as many micro-batches as this process runs."""
        ends = self.ends(batches) if self.rank is None else [batches]
        return ShardedStatistics(self, LayerStatistics(in_features, full), ends)

    def added(self, own: LayerStatistics) -> LayerStatistics:
        """The sum over all processes, in the order of their ranks, the same in every process.

        Each sends its sum to the first, which adds them one after another: an all-reduce would choose an order of its
        own for more than two.
        """
        if self.rank is None:
            return own
        own.tokens = self.summed(own.tokens)
        sums = own.sums
        with reaching():
            if self.rank:
                dist.send(sums, 0)
            else:
                other = torch.empty_like(sums)
                for rank in range(1, self.count):
                    dist.recv(other, rank)
                    sums += other
            dist.broadcast(sums, 0)
        return own

    def summed(self, count: int) -> int:
        """A whole number added up over all processes."""
        if self.rank is None:
            return count
        value = torch.tensor(count, dtype=torch.int64)
        with reaching():
            dist.all_reduce(value)
        return int(value)

    def check_alike(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise ComputationError in every process whose tensors are not the first process's to the bit."""
        if self.rank is None:
            return
        hashed = hashlib.sha256()
        for name in sorted(tensors):
            hashed.update(tensors[name].contiguous().view(torch.uint8).numpy().data)
        digest = hashed.hexdigest()
        first = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)
        with reaching():
            dist.broadcast(first, 0)
        if self.summed(bytes(first.tolist()).hex() != digest):
            raise ComputationError(
                "the calibration processes reached different weights; run all of them on processors of one kind with "
                "as many threads each"
            )


WHOLE = Shards()
"""All windows in one sum."""


@dataclass
class ShardedStatistics:
    """Statistics of one input, shard after shard; micro-batches come in their order."""

    shards: Shards
    current: LayerStatistics
    ends: list[int]
    arrived: int = 0
    done: LayerStatistics | None = field(default=None, repr=False)

    def add(self, inputs: Tensor) -> "ShardedStatistics":
        """Accumulate a micro-batch, as `LayerStatistics.add` does, and return self."""
        self.current.add(inputs)
        self.arrived += 1
        if self.arrived in self.ends:
            self._close()
        return self

    def _close(self) -> None:
        closed, self.current = self.current, LayerStatistics(self.current.in_features, self.current.full)
        if self.done is None:
            self.done = closed
            return
        sums = self.done.sums
        sums += closed.sums
        self.done.tokens += closed.tokens

    def total(self) -> LayerStatistics:
        """What all shards know, once every micro-batch has come."""
        return self.shards.added(required(self.done, "a calibration shard"))
