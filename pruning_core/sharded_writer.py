"""Model weights written one tensor at a time, in the layout of Hugging Face."""

import json
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from pruning_core.checkpoint import INDEX_FILE, SINGLE_FILE
from pruning_core.errors import ComputationError, InputError
from pruning_core.safetensors_format import write_file

SHARD_BYTES = 2**30
"""Of a shard: it is in memory whole before it is written."""


class ShardedWriter:
    """Writes tensors as they come into shards of at most `max_shard_bytes`, named as Hugging Face names them.

    Memory holds one shard. Until `close` the directory holds provisional files only, and the index is
    written last: an interrupted writer leaves nothing that could be taken for a model. A tensor larger
    than a shard gets one of its own; when all fits into one shard that is `model.safetensors`.

    Raises:
        InputError: the directory already holds weights.
    """

    def __init__(self, directory: Path | str, max_shard_bytes: int = SHARD_BYTES) -> None:
        self.directory = Path(directory)
        self.max_shard_bytes = max_shard_bytes
        self.directory.mkdir(parents=True, exist_ok=True)
        if any(self.directory.glob("model*.safetensors")) or (self.directory / INDEX_FILE).exists():
            raise InputError(f"{self.directory} already holds weights; choose an empty directory")
        self._discard()
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._home: dict[str, int] = {}
        self._shards = 0
        self._total_bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a copy of the tensor; the caller may reuse its memory."""
        if name in self._home:
            raise ComputationError(f"tensor {name!r} was written twice to {self.directory}")
        if self._pending and self._pending_bytes + tensor.nbytes > self.max_shard_bytes:
            self._flush()
        copy = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        self._pending[name] = copy
        self._pending_bytes += copy.nbytes
        self._total_bytes += copy.nbytes
        self._home[name] = self._shards

    def close(self) -> list[Path]:
        """Finish the last shard, give all their final names and write the index; the files written."""
        if not self._home:
            raise ComputationError(f"no tensor was written to {self.directory}")
        self._flush()
        names = [f"model-{i + 1:05d}-of-{self._shards:05d}.safetensors" for i in range(self._shards)]
        if self._shards == 1:
            names = [SINGLE_FILE]
        written = [self._provisional(i).replace(self.directory / name) for i, name in enumerate(names)]
        if self._shards > 1:
            index = {
                "metadata": {"total_size": self._total_bytes},
                "weight_map": {name: names[shard] for name, shard in self._home.items()},
            }
            path = self.directory / INDEX_FILE
            path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            written.append(path)
        return written

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._discard()

    def _provisional(self, shard: int) -> Path:
        return self.directory / f".shard-{shard + 1:05d}.partial"

    def _flush(self) -> None:
        if self._pending:
            write_file(self._provisional(self._shards), self._pending)
            self._shards += 1
            self._pending = {}
            self._pending_bytes = 0

    def _discard(self) -> None:
        for leftover in self.directory.glob(".shard-*.partial"):
            leftover.unlink()
