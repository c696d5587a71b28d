"""What the index says of one tensor, and what every encoding has to do."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, NamedTuple, Self

import pydantic.dataclasses
import torch
from pydantic import Field, model_validator
from torch import Tensor

from pruning_core.checkpoint.safetensors_format import CODES, DTYPES
from pruning_core.checkpoint.stored_model import StoredGrid
from pruning_core.errors import ComputationError
from pruning_core.registry import STRICT
from pruning_core.sparse_container import EXPANSION

Count = Annotated[int, Field(ge=0, lt=2**63)]
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes per number -> the integers that a tensor's bits are looked at as."""
BLOCK_WEIGHTS = 2**20
"""Temporary memory is for so many weights at a time."""
HEADER_BYTES = 128
"""About what the entry of one part takes in a shard's header."""


class Part(NamedTuple):
    """A tensor of a shard."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Matrix:
    """A tensor that is to be encoded, in the layout of the checkpoint.

    Args:
        weight: of any shape and dtype.
        grid: its integers, where it is [rows, columns] and quantized.
        keep: [rows, columns] bool, True where a weight survives, where that is known of a quantized one.
    """

    weight: Tensor
    grid: StoredGrid | None = None
    keep: Tensor | None = None

    @property
    def dtype(self) -> str:
        """As safetensors headers spell it.

        Raises:
            ComputationError: they cannot.
        """
        if self.weight.dtype not in CODES:
            raise ComputationError(f"safetensors files cannot hold numbers of {self.weight.dtype}")
        return CODES[self.weight.dtype]

    @cached_property
    def suits(self) -> bool:
        """Whether encodings other than dense can take it."""
        return _is_matrix(tuple(self.weight.shape), self.weight.dtype)

    @cached_property
    def bits(self) -> Tensor:
        """[rows, columns] integers with the bits of the numbers: -0.0 is none of the zeros, and NaN equals itself."""
        whole = self.weight.contiguous()
        return whole.view(INTEGERS[whole.itemsize]).reshape(-1, whole.shape[-1])

    @cached_property
    def nonzero(self) -> Tensor:
        """[rows, columns] bool."""
        return self.bits != 0

    @cached_property
    def count(self) -> int:
        """Numbers that are not +0."""
        return int(self.nonzero.sum())


def _is_matrix(shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    return len(shape) in (2, 3) and math.prod(shape) > 0 and dtype.is_floating_point


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class Entry:
    """An encoded tensor; fields are the keys of the index.

    encoding: which of the encodings, each a class of its own.
    shape: of the tensor in the checkpoint.
    dtype: of the tensor in the checkpoint, as safetensors headers spell it.
    file: the shard with its parts.
    """

    encoding: str
    shape: Annotated[tuple[Count, ...], Field(max_length=64)]
    dtype: Literal[tuple(DTYPES)]  # type: ignore[valid-type]  # pydantic takes the values when it runs
    file: str = ""

    @model_validator(mode="after")
    def _addressable(self) -> Self:
        # Torch multiplies the sizes even where one of them is 0.
        if math.prod(max(size, 1) for size in self.shape) >= 2**60:
            raise ValueError("its shape is larger than any memory")
        return self

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def dense_bytes(self) -> int:
        """Of the tensor in the checkpoint."""
        return math.prod(self.shape) * self.torch_dtype.itemsize

    @property
    def bytes(self) -> int:
        """Of its parts."""
        return sum(part.bytes for part in self.layout().values())

    @property
    def cost(self) -> int:
        """Bytes of its parts and of what headers say of them."""
        return self.bytes + HEADER_BYTES * len(self.layout())

    @property
    def in_proportion(self) -> bool:
        """Whether a reader accepts to make that much of that little."""
        return self.dense_bytes <= EXPANSION * self.bytes

    def placed(self, file: str) -> Self:
        """The same in a shard."""
        return dataclasses.replace(self, file=file)

    def layout(self) -> dict[str, Part]:
        """Part -> what the shard must hold under `<tensor>/<part>`."""
        raise NotImplementedError

    def encode(self, matrix: Matrix) -> dict[str, Tensor]:
        """The parts, as `layout` says."""
        raise NotImplementedError

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The tensor, from parts that are as `layout` says.

        Raises:
            InputError: what the parts hold cannot be.
        """
        raise NotImplementedError


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class MatrixEntry(Entry):
    """An encoding of [rows, columns], or of [..., rows, columns] taken as [-1, columns]."""

    @model_validator(mode="after")
    def _matrix(self) -> Self:
        if not _is_matrix(self.shape, self.torch_dtype):
            raise ValueError("only matrices of floating point numbers can have this encoding")
        return self

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def columns(self) -> int:
        return self.shape[-1]

    def blank(self) -> Tensor:
        """[rows, columns] integers as wide as the dtype, all zero."""
        return torch.zeros(self.rows, self.columns, dtype=INTEGERS[self.torch_dtype.itemsize])

    def integers(self, values: Tensor) -> Tensor:
        """The bits of numbers of this dtype."""
        return values.view(INTEGERS[self.torch_dtype.itemsize])

    def tensor(self, bits: Tensor) -> Tensor:
        """The inverse of `integers`, in the checkpoint's shape."""
        return bits.view(self.torch_dtype).reshape(self.shape)


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Runs of rows of about `BLOCK_WEIGHTS` weights."""
    step = max(1, BLOCK_WEIGHTS // columns)
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def narrowest(largest: int) -> torch.dtype:
    """The type for indices up to `largest`: the narrowest that the format has."""
    if largest < 2**8:
        return torch.uint8
    return torch.uint16 if largest < 2**16 else torch.int32
