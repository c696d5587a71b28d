"""Safetensors shards filled one tensor at a time, under provisional names until all are written."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pruning_core.safetensors_format import write_file

SHARD_BYTES = 2**30
"""Of a shard: it is in memory whole before it is written."""


class ShardFiles:
    """Shards of at most `max_shard_bytes` in a directory, of which memory holds one.

    What is added together lies in one shard, which gets larger than that only where it holds nothing else. Provisional
    shards of a writer that was killed are removed.
    """

    def __init__(self, directory: Path, max_shard_bytes: int = SHARD_BYTES) -> None:
        self.directory = directory
        self.max_shard_bytes = max_shard_bytes
        self.directory.mkdir(parents=True, exist_ok=True)
        self.discard()
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._written = 0

    def add(self, tensors: Mapping[str, Tensor]) -> int:
        """Take copies of the tensors, whose memory the caller may reuse; the number of their shard, from 0."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self._pending and self._pending_bytes + size > self.max_shard_bytes:
            self._flush()
        for name, tensor in tensors.items():
            self._pending[name] = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        self._pending_bytes += size
        return self._written

    def finish(self) -> int:
        """Write the last shard; how many there are."""
        self._flush()
        return self._written

    def sizes(self) -> list[int]:
        """Bytes of each finished shard."""
        return [self._shard(number).stat().st_size for number in range(self._written)]

    def provisional(self, name: str) -> Path:
        """Where a file lies until it has its final name; `discard` removes it."""
        return self.directory / f".shard-{name}.partial"

    def name(self, names: Sequence[str]) -> list[Path]:
        """Give the finished shards their final names; the files."""
        return [self._shard(number).replace(self.directory / name) for number, name in enumerate(names)]

    def discard(self) -> None:
        """Remove what has no final name yet."""
        for leftover in self.directory.glob(".shard-*.partial"):
            leftover.unlink()

    def _shard(self, number: int) -> Path:
        return self.provisional(f"{number + 1:05d}")

    def _flush(self) -> None:
        if self._pending:
            write_file(self._shard(self._written), self._pending)
            self._written += 1
            self._pending = {}
            self._pending_bytes = 0
