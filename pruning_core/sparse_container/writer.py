"""A container written one tensor at a time."""

import dataclasses
from pathlib import Path
from typing import Any

from pruning_core.checkpoint.shard_files import SHARD_BYTES
from pruning_core.checkpoint.streamed_writer import StreamedWriter
from pruning_core.errors import ComputationError
from pruning_core.sparse_container import INDEX
from pruning_core.sparse_container.entry import Entry, Matrix
from pruning_core.sparse_container.index import entry_of, index_json


class SparseContainerWriter(StreamedWriter):
    """Encodes tensors as they come into shards. Memory holds one shard and one tensor."""

    stem = "sparse"
    index = INDEX
    content = "a sparse container"

    def __init__(self, directory: Path | str, max_shard_bytes: int = SHARD_BYTES, resume: bool = False) -> None:
        super().__init__(directory, max_shard_bytes, resume)
        self._entries = {name: entry_of(group.note["entry"]) for name, group in self._shards.groups.items()}

    def add(self, name: str, matrix: Matrix, entry: Entry, note: Any = None) -> None:
        """Take a tensor; the caller may reuse its memory.

        Args:
            entry: of this tensor, as `smallest` or the `of` of an encoding makes it.
            note: JSON that `notes` gives again, also after an interruption.
        """
        parts = {f"{name}/{part}": tensor for part, tensor in entry.encode(matrix).items()}
        self._shards.add(name, parts, {"entry": dataclasses.asdict(entry), "note": note})
        self._entries[name] = entry

    def notes(self) -> dict[str, Any]:
        """Name -> the note that `add` took with it, where there was one."""
        notes = {name: group.note["note"] for name, group in self._shards.groups.items()}
        return {name: note for name, note in notes.items() if note is not None}

    def close(self) -> list[Path]:
        """Finish the last shard, write the index and give all their final names; the files, the index last."""
        if not self._entries:
            raise ComputationError(f"no tensor was written to {self.directory}")
        names = self._shards.finish()
        sizes = dict(zip(names, self._shards.sizes(), strict=True))
        groups = self._shards.groups
        entries = {name: entry.placed(names[groups[name].shard]) for name, entry in self._entries.items()}
        return self._shards.publish(names, index_json(sizes, entries))
