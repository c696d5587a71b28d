"""A container read one tensor at a time; files that lie are refused before memory is taken for what they claim."""

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.checkpoint.safetensors_format import ADVICE
from pruning_core.errors import InputError
from pruning_core.sparse_container import INDEX
from pruning_core.sparse_container.entry import Entry, Part
from pruning_core.sparse_container.index import read_index


class SparseContainer:
    """The tensors of a container under the names, in the dtypes and in the layout of the source checkpoint.

    Opening reads the index and the headers, and guarantees that every shard holds exactly the parts that the index
    promises, in their sizes. What is in the parts is checked when a tensor is loaded.

    Raises:
        InputError: no container, or one that is truncated, damaged or crafted.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        index = read_index(self.directory)
        self._entries = index.tensors
        self._shards: dict[str, Checkpoint] = {}
        for file, size in index.files.items():
            self._shards[file] = Checkpoint(self.directory, file)
            stored = (self.directory / file).stat().st_size
            if stored != size:
                raise InputError(f"{self.directory / file} has {stored} bytes where {INDEX} says {size}; {ADVICE}")
        self._check_parts()

    @property
    def files(self) -> list[Path]:
        """The index and the shards."""
        return [self.directory / INDEX, *(self.directory / file for file in self._shards)]

    def names(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self._entries)

    def entry(self, name: str) -> Entry:
        """How a tensor is stored: its encoding, that encoding's settings, and `bytes`.

        Raises:
            InputError: no such tensor.
        """
        if name not in self._entries:
            close = difflib.get_close_matches(name, self._entries, n=1)
            nearest = f"; the nearest of its {len(self._entries)} tensors is {close[0]!r}" if close else ""
            raise InputError(f"{self.directory} holds no tensor {name!r}{nearest}")
        return self._entries[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor in the checkpoint."""
        return self.entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of the tensor in the checkpoint."""
        return self.entry(name).torch_dtype

    def load(self, name: str) -> Tensor:
        """The dense tensor on the CPU, bit for bit the checkpoint's.

        Raises:
            InputError: no such tensor, or parts that contradict each other.
        """
        entry = self.entry(name)
        shard = self._shards[entry.file]
        try:
            return entry.decode({part: shard.load(f"{name}/{part}") for part in entry.layout()})
        except InputError as error:
            raise InputError(f"{self.directory / entry.file} is damaged: of tensor {name!r}, {error}") from error

    def facts(self) -> dict[str, Any]:
        """As JSON: `encodings` {encoding: {tensors, bytes}}, `file_bytes` of index and shards, `dense_bytes`,
        `parameters`, and `bits_per_weight`: 8 file bytes per parameter."""
        entries = self._entries.values()
        encodings: dict[str, dict[str, int]] = {}
        for entry in entries:
            one = encodings.setdefault(entry.encoding, {"tensors": 0, "bytes": 0})
            one["tensors"] += 1
            one["bytes"] += entry.bytes
        parameters = sum(torch.Size(entry.shape).numel() for entry in entries)
        file_bytes = sum(file.stat().st_size for file in self.files)
        return {
            "encodings": dict(sorted(encodings.items())),
            "file_bytes": file_bytes,
            "dense_bytes": sum(entry.dense_bytes for entry in entries),
            "parameters": parameters,
            "bits_per_weight": 8 * file_bytes / parameters if parameters else None,
        }

    def _check_parts(self) -> None:
        promised: dict[str, dict[str, Part]] = {file: {} for file in self._shards}
        for name, entry in self._entries.items():
            promised[entry.file] |= {f"{name}/{part}": what for part, what in entry.layout().items()}
        for file, shard in self._shards.items():
            stored = {name: Part(shard.dtype(name), shard.shape(name)) for name in shard.names()}
            for name in sorted(stored.keys() ^ promised[file].keys()):
                fault = "holds, unlike the index says," if name in stored else "lacks"
                raise InputError(f"{self.directory / file} {fault} the part {name!r}; {ADVICE}")
            for name, part in stored.items():
                if part != promised[file][name]:
                    raise InputError(
                        f"{self.directory / file} holds {name!r} as {part.dtype} {list(part.shape)}, where {INDEX} asks"
                        f" for {promised[file][name].dtype} {list(promised[file][name].shape)}; {ADVICE}"
                    )
