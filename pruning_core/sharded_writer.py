"""Model weights written one tensor at a time, in the layout of Hugging Face."""

import json
from pathlib import Path
from types import TracebackType
from typing import Self

from torch import Tensor

from pruning_core.checkpoint import INDEX_FILE, SINGLE_FILE
from pruning_core.errors import ComputationError, InputError
from pruning_core.shard_files import SHARD_BYTES, ShardFiles


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
        if any(self.directory.glob("model*.safetensors")) or (self.directory / INDEX_FILE).exists():
            raise InputError(f"{self.directory} already holds weights; choose an empty directory")
        self._shards = ShardFiles(self.directory, max_shard_bytes)
        self._home: dict[str, int] = {}
        self._total_bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a copy of the tensor; the caller may reuse its memory."""
        if name in self._home:
            raise ComputationError(f"tensor {name!r} was written twice to {self.directory}")
        self._home[name] = self._shards.add({name: tensor})
        self._total_bytes += tensor.nbytes

    def close(self) -> list[Path]:
        """Finish the last shard, give all their final names and write the index; the files written."""
        if not self._home:
            raise ComputationError(f"no tensor was written to {self.directory}")
        count = self._shards.finish()
        names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        if count == 1:
            names = [SINGLE_FILE]
        written = self._shards.name(names)
        if count > 1:
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
            self._shards.discard()
