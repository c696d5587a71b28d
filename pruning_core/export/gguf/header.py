"""The head of a GGUF file, read with every length checked: what is claimed cannot take more than the file has."""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pruning_core.errors import InputError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
# Number of a value's type in the file -> struct code.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
INTEGERS = "BbHhIiQq"
LONGEST = 1024
"""Entries of an array that is kept: one per block."""
DIMENSIONS = 4


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies."""

    shape: tuple[int, ...]
    """As numpy has it, rows first."""
    kind: int
    """ggml's number of the type."""
    start: int
    """Byte of the file."""
    bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """Keys with a single value or a short list of integers (all others are None), and tensors by name."""

    keys: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_gguf_header(path: Path) -> GgufHeader:
    """Everything but the tensors' content and the long arrays (the vocabulary).

    Raises:
        InputError: no GGUF file, a type that is not known, or a file that is shorter than it claims to be.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        head = _Head(path, file, size)
        if file.read(4) != MAGIC:
            raise InputError(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}")
        version = head.number("I")
        if version not in VERSIONS:
            raise InputError(f"{path} is GGUF version {version}; readable are {', '.join(map(str, VERSIONS))}")
        tensor_count, key_count = head.number("Q"), head.number("Q")
        keys = dict(head.key() for _ in range(_within(path, key_count, size)))
        tensors = [head.tensor() for _ in range(_within(path, tensor_count, size))]
        alignment = keys.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment < 1:
            raise InputError(f"{path} is damaged: alignment {alignment!r}")
        base = -(-file.tell() // alignment) * alignment
    return GgufHeader(keys, {name: _placed(path, size, base, *place) for name, place in tensors})


def _within(path: Path, count: int, size: int) -> int:
    if count > size:
        raise InputError(f"{path} is damaged: it claims {count} entries in {size} bytes; export or download it again")
    return count


def _placed(path: Path, size: int, base: int, shape: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    if kind not in set(GGMLQuantizationType):
        raise InputError(f"{path} has a tensor of type {kind}, which this reader does not know")
    block, bytes_of_block = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    length = math.prod(shape) // block * bytes_of_block
    if shape[-1] % block or base + offset + length > size:
        raise InputError(f"{path} is truncated or damaged: a tensor reaches beyond its {size} bytes; export it again")
    return GgufTensor(shape, kind, base + offset, length)


@dataclass(frozen=True)
class _Head:
    path: Path
    file: BinaryIO
    size: int

    def take(self, length: int) -> bytes:
        content = self.file.read(length) if length <= self.size - self.file.tell() else b""
        if len(content) != length:
            raise InputError(f"{self.path} is truncated or damaged in its head; export or download it again")
        return content

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def key(self) -> tuple[str, Any]:
        name, kind = self.text(), self.number("I")
        return name, self._value(kind)

    def tensor(self) -> tuple[str, tuple[tuple[int, ...], int, int]]:
        name, count = self.text(), self.number("I")
        if not 1 <= count <= DIMENSIONS:
            raise InputError(f"{self.path} is damaged: tensor {name!r} has {count} dimensions")
        shape = tuple(self.number("Q") for _ in range(count))[::-1]
        return name, (shape, self.number("I"), self.number("Q"))

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self._array(self.number("I"), self.number("Q"))
        return self.number(self._code(kind))

    def _array(self, kind: int, count: int) -> list[int] | None:
        if kind == STRING:
            for _ in range(_within(self.path, count, self.size)):
                self.text()
            return None
        code = self._code(kind)
        content = self.take(_within(self.path, count, self.size) * struct.calcsize(code))
        return list(struct.unpack(f"<{count}{code}", content)) if code in INTEGERS and count <= LONGEST else None

    def _code(self, kind: int) -> str:
        if kind not in SCALARS:
            raise InputError(f"{self.path} is damaged: it has a value of type {kind}")
        return SCALARS[kind]
