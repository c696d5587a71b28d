"""A container written one tensor at a time."""

from pathlib import Path
from types import TracebackType
from typing import Self

from pruning_core.errors import ComputationError, InputError
from pruning_core.shard_files import SHARD_BYTES, ShardFiles
from pruning_core.sparse_container import INDEX
from pruning_core.sparse_container.entry import Entry, Matrix
from pruning_core.sparse_container.index import index_json


class SparseContainerWriter:
    """Encodes tensors as they come into shards of at most `max_shard_bytes`.

    Memory holds one shard and one tensor. Until `close` the directory holds provisional files only, and the index gets
    its name last: an interrupted writer leaves nothing that could be taken for a container.

    Raises:
        InputError: the directory already holds a container, or shards of one.
    """

    def __init__(self, directory: Path | str, max_shard_bytes: int = SHARD_BYTES) -> None:
        self.directory = Path(directory)
        if any(self.directory.glob("sparse-*.safetensors")) or (self.directory / INDEX).exists():
            raise InputError(f"{self.directory} already holds a sparse container; choose an empty directory")
        self._shards = ShardFiles(self.directory, max_shard_bytes)
        self._entries: dict[str, tuple[Entry, int]] = {}

    def add(self, name: str, matrix: Matrix, entry: Entry) -> None:
        """Take a tensor; the caller may reuse its memory.

        Args:
            entry: of this tensor, as `smallest` or the `of` of an encoding makes it.
        """
        if name in self._entries:
            raise ComputationError(f"tensor {name!r} was written twice to {self.directory}")
        parts = {f"{name}/{part}": tensor for part, tensor in entry.encode(matrix).items()}
        self._entries[name] = (entry, self._shards.add(parts))

    def close(self) -> list[Path]:
        """Finish the last shard, write the index and give all their final names; the files, the index last."""
        if not self._entries:
            raise ComputationError(f"no tensor was written to {self.directory}")
        count = self._shards.finish()
        names = [f"sparse-{number + 1:05d}-of-{count:05d}.safetensors" for number in range(count)]
        sizes = dict(zip(names, self._shards.sizes(), strict=True))
        entries = {name: entry.placed(names[shard]) for name, (entry, shard) in self._entries.items()}
        # A disk that is full is noticed while all names are provisional.
        index = self._shards.provisional("index")
        index.write_text(index_json(sizes, entries), encoding="utf-8")
        return [*self._shards.name(names), index.replace(self.directory / INDEX)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self._shards.discard()
