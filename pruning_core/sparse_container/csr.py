"""CSR, compressed sparse rows: for each row its non-zero weights and their columns."""

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
import pydantic.dataclasses
import torch
from torch import Tensor

from pruning_core.errors import InputError
from pruning_core.registry import STRICT
from pruning_core.sparse_container.entry import Count, Matrix, MatrixEntry, Part, narrowest, row_blocks


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class Csr(MatrixEntry):
    """Few weights left.

    count: values stored.
    """

    count: Count
    encoding: Literal["csr"] = "csr"

    @classmethod
    def of(cls, matrix: Matrix) -> Self | None:
        """The entry of a matrix; None where it suits no matrix encoding, or has too many columns or too few weights."""
        if not matrix.suits or matrix.weight.shape[-1] > 2**31:
            return None
        entry = cls(shape=tuple(matrix.weight.shape), dtype=matrix.dtype, count=matrix.count)
        return entry if entry.in_proportion else None

    def layout(self) -> dict[str, Part]:
        starts = torch.int32 if self.count < 2**31 else torch.int64
        return {
            "values": Part(self.torch_dtype, (self.count,)),
            "columns": Part(narrowest(self.columns - 1), (self.count,)),
            "crow": Part(starts, (self.rows + 1,)),
        }

    def encode(self, matrix: Matrix) -> dict[str, Tensor]:
        layout = self.layout()
        columns = torch.empty(self.count, dtype=layout["columns"].dtype)
        crow = torch.zeros(self.rows + 1, dtype=layout["crow"].dtype)
        crow[1:] = matrix.nonzero.sum(dim=1).cumsum(dim=0)
        for block in row_blocks(self.rows, self.columns):
            occupied = matrix.nonzero[block].nonzero()[:, 1]
            columns[int(crow[block.start]) : int(crow[block.stop])] = occupied.to(columns.dtype)
        values = matrix.bits.masked_select(matrix.nonzero).view(self.torch_dtype)
        return {"values": values, "columns": columns, "crow": crow}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        crow, columns = parts["crow"].numpy(), parts["columns"].numpy()
        if crow[0] != 0 or crow[-1] != self.count or (crow < 0).any() or (crow[1:] < crow[:-1]).any():
            raise InputError(f"its rows do not begin one after another, from 0 to {self.count}")
        if self.count and not 0 <= int(columns.min()) <= int(columns.max()) < self.columns:
            raise InputError(f"a column is not among its {self.columns}")
        follows = columns[1:] > columns[:-1]
        begins = crow[1:-1]
        follows[begins[(begins > 0) & (begins < self.count)] - 1] = True
        if not follows.all():
            raise InputError("the columns of a row do not increase")
        place = np.repeat(np.arange(self.rows, dtype=np.int64) * self.columns, np.diff(crow)) + columns
        bits = self.blank()
        bits.view(-1)[torch.from_numpy(place)] = self.integers(parts["values"])
        return self.tensor(bits)
