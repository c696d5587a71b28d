"""Model weights written one tensor at a time, in the layout of Hugging Face."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pruning_core.checkpoint.checkpoint import INDEX_FILE, SINGLE_FILE
from pruning_core.checkpoint.streamed_writer import StreamedWriter
from pruning_core.errors import ComputationError


class ShardedWriter(StreamedWriter):
    """Writes shards that are named as Hugging Face names them.

    A tensor larger than a shard gets one of its own; when all fits into one shard that is `model.safetensors`.
    """

    stem = "model"
    index = INDEX_FILE
    content = "weights"

    def add(self, name: str, tensor: Tensor | Mapping[str, Tensor], note: Any = None) -> None:
        """Take a copy of the tensor; the caller may reuse its memory.

        Args:
            tensor: or what is stored in its place, under names of its own and in one shard.
            note: JSON that `notes` gives again, also after an interruption.
        """
        self._shards.add(name, {name: tensor} if isinstance(tensor, Tensor) else tensor, note)

    def notes(self) -> dict[str, Any]:
        """Name -> the note that `add` took with it, where there was one."""
        return {name: group.note for name, group in self._shards.groups.items() if group.note is not None}

    def close(self) -> list[Path]:
        """Finish the last shard, give all their final names and write the index; the files written."""
        groups = self._shards.groups
        if not groups:
            raise ComputationError(f"no tensor was written to {self.directory}")
        names = self._shards.finish()
        if len(names) == 1:
            return self._shards.publish([SINGLE_FILE], None)
        index = {
            "metadata": {"total_size": sum(group.bytes for group in groups.values())},
            "weight_map": {name: names[group.shard] for group in groups.values() for name in group.tensors},
        }
        return self._shards.publish(names, json.dumps(index, indent=2, sort_keys=True) + "\n")
