"""Safetensors shards filled one tensor at a time, under provisional names until all are written."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning_core.checkpoint.durable_files import flush_one
from pruning_core.checkpoint.safetensors_format import read_header, write_file
from pruning_core.errors import ComputationError, InputError

SHARD_BYTES = 2**30
"""Of a shard: it is in memory whole before it is written."""


@dataclass(frozen=True)
class Group:
    """Tensors that were added together.

    shard: number of the file that they lie in, from 0.
    tensors: their names there.
    bytes: of all of them.
    note: JSON of the caller, which an interrupted writer finds again.
    """

    shard: int
    tensors: list[str]
    bytes: int
    note: Any = None


class ShardFiles:
    """Shards of at most `max_shard_bytes` in a directory, of which memory holds one.

    What is added together lies in one shard, which gets larger than that only where it holds nothing else.

    Args:
        stem: of the final names, <stem>-00001-of-00003.safetensors.
        index: name of the file that is written last.
        resume: keep finished shards when the writer is interrupted, and go on behind those that an interrupted one
            left; otherwise they are removed. What is added must then come in the order in which it came before.
    """

    def __init__(
        self, directory: Path, stem: str, index: str, max_shard_bytes: int = SHARD_BYTES, resume: bool = False
    ) -> None:
        self.directory = directory
        self.max_shard_bytes = max_shard_bytes
        self.groups: dict[str, Group] = {}
        """Key -> what was added under it, in the order of writing."""
        self._stem = stem
        self._index = index
        self._resume = resume
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._written = 0
        self.directory.mkdir(parents=True, exist_ok=True)
        if resume:
            self._recover()
        else:
            self.discard()

    def add(self, key: str, tensors: Mapping[str, Tensor], note: Any = None) -> None:
        """Take copies of the tensors, whose memory the caller may reuse.

        Raises:
            ComputationError: something was added under the key before.
        """
        if key in self.groups:
            raise ComputationError(f"tensor {key!r} was written twice to {self.directory}")
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self._pending and self._pending_bytes + size > self.max_shard_bytes:
            self._flush()
        for name, tensor in tensors.items():
            self._pending[name] = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        self._pending_bytes += size
        self.groups[key] = Group(self._written, list(tensors), size, note)

    def finish(self) -> list[str]:
        """Write the last shard; the final names of all, in order."""
        self._flush()
        return [f"{self._stem}-{i + 1:05d}-of-{self._written:05d}.safetensors" for i in range(self._written)]

    def sizes(self) -> list[int]:
        """Bytes of each finished shard."""
        return [self._shard(number).stat().st_size for number in range(self._written)]

    def publish(self, names: Sequence[str], index: str | None) -> list[Path]:
        """Give the finished shards these names and write the index, whose name appears last; the files.

        Args:
            index: its text; None: there is none.
        """
        # A disk that is full is noticed while all names are provisional.
        whole = self._provisional("index")
        if index is not None:
            whole.write_text(index, encoding="utf-8")
        written = [self._shard(number).replace(self.directory / name) for number, name in enumerate(names)]
        if index is not None:
            written.append(whole.replace(self.directory / self._index))
        self.discard()
        return written

    def abandon(self) -> None:
        """Leave what a writer that resumes can go on from, and nothing else."""
        if self._resume:
            self._provisional("unfinished").unlink(missing_ok=True)
        else:
            self.discard()

    def discard(self) -> None:
        """Remove what has no final name."""
        for leftover in self.directory.glob(".shard-*.partial"):
            leftover.unlink()

    @property
    def _groups_file(self) -> Path:
        """What the finished shards hold; one file, so that it is there or not."""
        return self._provisional("groups")

    def _provisional(self, name: str) -> Path:
        return self.directory / f".shard-{name}.partial"

    def _shard(self, number: int) -> Path:
        return self._provisional(f"{number + 1:05d}")

    def _flush(self) -> None:
        if not self._pending:
            return
        write_file(self._provisional("unfinished"), self._pending)
        if self._resume:
            flush_one(self._provisional("unfinished"))
        self._provisional("unfinished").replace(self._shard(self._written))
        self._written += 1
        self._pending = {}
        self._pending_bytes = 0
        if self._resume:
            groups_file = self._provisional("new-groups")
            groups_file.write_text(
                json.dumps({key: asdict(group) for key, group in self.groups.items()}), encoding="utf-8"
            )
            flush_one(groups_file)
            groups_file.replace(self._groups_file)

    def _recover(self) -> None:
        """Take up the shards of an interrupted writer as far as they are whole; what else it left is removed."""
        if self._groups_file.is_file():
            by_shard: dict[int, dict[str, Group]] = defaultdict(dict)
            for key, facts in json.loads(self._groups_file.read_text(encoding="utf-8")).items():
                group = Group(**facts)
                by_shard[group.shard][key] = group
            while self._restored(self._written, by_shard[self._written]):
                self.groups |= by_shard[self._written]
                self._written += 1
            # That file says that files with final names are of that writer too.
            for file in [self.directory / self._index, *self.directory.glob(f"{self._stem}*.safetensors")]:
                file.unlink(missing_ok=True)
        kept = {self._groups_file, *(self._shard(number) for number in range(self._written))}
        for leftover in set(self.directory.glob(".shard-*.partial")) - kept:
            leftover.unlink()

    def _restored(self, number: int, groups: Mapping[str, Group]) -> bool:
        """Whether a shard is there and holds these groups; it gets back its provisional name."""
        shard = self._shard(number)
        final = [*self.directory.glob(f"{self._stem}-{number + 1:05d}-of-*.safetensors")]
        for file in [*final, *([self.directory / f"{self._stem}.safetensors"] if number == 0 else [])]:
            if file.is_file():
                file.replace(shard)
        if not groups or not shard.is_file():
            return False
        try:
            return read_header(shard).keys() == {name for group in groups.values() for name in group.tensors}
        except InputError:
            return False
