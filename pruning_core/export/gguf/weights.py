"""The weights of a GGUF file, read one at a time as the source checkpoint had them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pruning_core.errors import InputError
from pruning_core.export.gguf.architecture import ARCHITECTURES, MIXED, ROPE_FREQUENCIES, checkpoint_name, row_order
from pruning_core.export.gguf.header import LONGEST, GgufHeader, read_gguf_header


class GgufWeights:
    """The weights of the GGUF file of a directory under the names and in the order of the source checkpoint, float32.

    Raises:
        InputError: no or several such files, one that is damaged, or an architecture that is not known here.
    """

    def __init__(self, directory: Path) -> None:
        files = sorted(directory.glob("*.gguf"))
        if len(files) != 1:
            raise InputError(f"{directory} holds {len(files)} GGUF files; an export is a directory with one")
        self.path = files[0]
        header = read_gguf_header(self.path)
        architecture = header.keys.get("general.architecture")
        if architecture not in (*ARCHITECTURES.values(), MIXED):
            raise InputError(f"{self.path} is of the architecture {architecture!r}, which is not known here")
        self._architecture = str(architecture)
        self._heads = self._counts(header, ""), self._counts(header, "_kv")
        tensors = {name: at for name, at in header.tensors.items() if name != ROPE_FREQUENCIES}
        self._tensors = {checkpoint_name(name): (name, at) for name, at in tensors.items()}

    def _counts(self, header: GgufHeader, kind: str) -> list[int]:
        """Heads of each block."""
        count, blocks = (
            header.keys.get(f"{self._architecture}.{key}") for key in (f"attention.head_count{kind}", "block_count")
        )
        numbers = [count] * blocks if type(count) is int and type(blocks) is int and blocks <= LONGEST else count
        if not isinstance(numbers, list) or len(numbers) != blocks or not all(number > 0 for number in numbers):
            raise InputError(f"{self.path} does not tell how many heads its blocks have; export it again")
        return numbers

    def names(self) -> list[str]:
        """All tensors, sorted."""
        return sorted(self._tensors)

    def load(self, name: str) -> Tensor:
        """A tensor in float32.

        Raises:
            InputError: no such tensor, or a type that the gguf library cannot read.
        """
        from gguf import GGMLQuantizationType, quants

        if name not in self._tensors:
            raise InputError(f"{self.path} holds no tensor {name!r}")
        gguf_name, at = self._tensors[name]
        kind = GGMLQuantizationType(at.kind)
        plain = {GGMLQuantizationType.F32: "<f4", GGMLQuantizationType.F16: "<f2"}.get(kind)
        with self.path.open("rb") as file:
            file.seek(at.start)
            data = np.frombuffer(file.read(at.bytes), dtype=plain or np.uint8)
        try:
            weight = quants.dequantize(data.reshape(*at.shape[:-1], -1), kind).astype(np.float32).reshape(at.shape)
            order = row_order(self._architecture, gguf_name, at.shape[0], *self._heads)
        except (NotImplementedError, ValueError, IndexError) as error:
            raise InputError(f"{self.path}: {name} cannot be read: {error}") from error
        return torch.from_numpy(weight if order is None else weight[np.argsort(order)])
