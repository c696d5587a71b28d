"""N of M: N weights of every M consecutive columns, each with its place among the M."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

import pydantic.dataclasses
import torch
from pydantic import Field, model_validator
from torch import Tensor

from pruning_core.errors import InputError
from pruning_core.registry import STRICT
from pruning_core.sparse_container.bit_stream import packed_stream, stream_bytes, unpacked_stream
from pruning_core.sparse_container.entry import Matrix, MatrixEntry, Part, row_blocks

GROUPS = (2, 4, 8, 16)
"""The M that are tried where nobody says one."""


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class NOfM(MatrixEntry):
    """Groups with fewer than N weights are filled up with zeros at places that hold none.

    n: values stored of every group.
    m: columns of a group.
    """

    n: Annotated[int, Field(ge=1)]
    m: Annotated[int, Field(ge=2, le=256)]
    encoding: Literal["n_of_m"] = "n_of_m"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.n >= self.m or self.columns % self.m:
            raise ValueError("n must be below m, and m must divide the columns")
        return self

    @classmethod
    def of(cls, matrix: Matrix, m: int, n: int | None = None) -> Self | None:
        """The entry of a matrix; None where more than N of a group, or all of one, are not zero.

        n: None: the smallest that the matrix fits.
        """
        if not matrix.suits or matrix.weight.shape[-1] % m:
            return None
        fullest = int(matrix.nonzero.view(-1, m).sum(dim=1, dtype=torch.int16).max())
        n = max(fullest, 1) if n is None else n
        if fullest > n or n >= m:
            return None
        return cls(shape=tuple(matrix.weight.shape), dtype=matrix.dtype, n=n, m=m)

    @property
    def width(self) -> int:
        """Bits of a place: ceil(log2 M)."""
        return (self.m - 1).bit_length()

    @property
    def groups(self) -> int:
        return self.rows * self.columns // self.m

    def layout(self) -> dict[str, Part]:
        return {
            "values": Part(self.torch_dtype, (self.rows, self.columns // self.m * self.n)),
            "indices": Part(torch.uint8, (stream_bytes(self.groups * self.n, self.width),)),
        }

    def encode(self, matrix: Matrix) -> dict[str, Tensor]:
        values = torch.empty(self.groups, self.n, dtype=matrix.bits.dtype)
        places = torch.empty(self.groups, self.n, dtype=torch.uint8)
        bits, nonzero = matrix.bits.view(-1, self.m), matrix.nonzero.view(-1, self.m)
        for block in row_blocks(self.groups, self.m):
            stored = _filled_up(nonzero[block], self.n)
            values[block] = bits[block].masked_select(stored).view(-1, self.n)
            places[block] = stored.nonzero()[:, 1].view(-1, self.n).to(torch.uint8)
        return {
            "values": values.view(self.torch_dtype).view(self.rows, -1),
            "indices": packed_stream(places.view(-1), self.width),
        }

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        places = unpacked_stream(parts["indices"], self.groups * self.n, self.width).view(self.groups, self.n)
        if not (places[:, 1:] > places[:, :-1]).all():
            raise InputError("the places within a group do not increase")
        if int(places.max()) >= self.m:
            raise InputError(f"a place within a group of {self.m} is beyond its end")
        bits = self.blank().view(-1, self.m)
        values = self.integers(parts["values"]).view(self.groups, self.n)
        for block in row_blocks(self.groups, self.m):
            bits[block].scatter_(1, places[block].long(), values[block])
        return self.tensor(bits)


def _filled_up(nonzero: Tensor, n: int) -> Tensor:
    """[groups, m] bool, True at exactly n places of each group: where it is not zero, then at its first zeros."""
    missing = n - nonzero.sum(dim=1, dtype=torch.int16)
    zero = ~nonzero
    return nonzero | (zero & (zero.cumsum(dim=1, dtype=torch.int16) <= missing[:, None]))
