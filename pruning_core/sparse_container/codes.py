"""Codes: the integers of a quantized matrix at exactly as many bits as they have, and their grids."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

import pydantic.dataclasses
import torch
from pydantic import Field, model_validator
from torch import Tensor

from pruning_core.checkpoint.bit_masks import pack_mask
from pruning_core.checkpoint.stored_model import StoredGrid
from pruning_core.errors import InputError, required
from pruning_core.registry import STRICT
from pruning_core.sparse_container.bit_stream import packed_stream, stream_bytes, unpacked_stream
from pruning_core.sparse_container.bitmask import mask_part, read_mask
from pruning_core.sparse_container.entry import Count, Matrix, MatrixEntry, Part, narrowest, row_blocks


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class Codes(MatrixEntry):
    """weight = scale[:, group] (code - zero[:, group]) in float32, rounded to the dtype; without a code it is 0.

    bits: of a code.
    groups: grids per row.
    group_size: columns j that share grid j // group_size; null where the part `group` tells the grid of each.
    count: codes stored; where that is fewer than the weights, the part `mask` tells whose they are.
    """

    bits: Annotated[int, Field(ge=1, le=8)]
    groups: Annotated[int, Field(ge=1, lt=2**31)]
    group_size: Annotated[int, Field(ge=1, lt=2**63)] | None
    count: Count
    encoding: Literal["codes"] = "codes"

    @model_validator(mode="after")
    def _grids(self) -> Self:
        if self.group_size is not None and self.groups != -(-self.columns // self.group_size):
            raise ValueError("the columns have another number of groups of that size")
        if self.count > self.rows * self.columns:
            raise ValueError("there are more codes than weights")
        return self

    @classmethod
    def of(cls, matrix: Matrix) -> Self | None:
        """The entry of a matrix; None where it has no codes, or they do not give its weights bit for bit."""
        grid = matrix.grid
        if grid is None or not matrix.suits or not _is_of(matrix, grid):
            return None
        count = _survivors(matrix, grid)
        return cls(
            shape=tuple(matrix.weight.shape),
            dtype=matrix.dtype,
            bits=grid.bits,
            groups=grid.scale.shape[1],
            group_size=_group_size(grid),
            count=count,
        )

    @property
    def masked(self) -> bool:
        return self.count < self.rows * self.columns

    def layout(self) -> dict[str, Part]:
        grids = self.rows * self.groups
        parts = {
            "codes": Part(torch.uint8, (stream_bytes(self.count, self.bits),)),
            "scale": Part(torch.float32, (self.rows, self.groups)),
            "zero": Part(torch.uint8, (stream_bytes(grids, self.bits),)),
        }
        if self.masked:
            parts["mask"] = mask_part(self.rows, self.columns)
        if self.group_size is None:
            parts["group"] = Part(narrowest(self.groups - 1), (self.columns,))
        return parts

    def encode(self, matrix: Matrix) -> dict[str, Tensor]:
        grid, layout = required(matrix.grid, "the grid of a matrix with codes"), self.layout()
        keep = required(matrix.keep, "the mask of a matrix with fewer codes than weights") if self.masked else None
        codes = grid.codes.reshape(-1) if keep is None else grid.codes.masked_select(keep)
        parts = {
            "codes": packed_stream(codes, self.bits),
            "scale": grid.scale,
            "zero": packed_stream(grid.zero.reshape(-1).to(torch.uint8), self.bits),
        }
        if keep is not None:
            parts["mask"] = pack_mask(keep)
        if self.group_size is None:
            parts["group"] = grid.group.to(layout["group"].dtype)
        return parts

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        keep = read_mask(parts["mask"], self.columns, self.count) if self.masked else None
        codes = unpacked_stream(parts["codes"], self.count, self.bits)
        if keep is None:
            codes = codes.view(self.rows, self.columns)
        else:
            codes = torch.zeros(self.rows, self.columns, dtype=torch.uint8).masked_scatter_(keep, codes)
        zero = unpacked_stream(parts["zero"], self.rows * self.groups, self.bits).view(self.rows, self.groups)
        grid = StoredGrid(codes, parts["scale"], zero.float(), self._group(parts), self.bits)
        weight = torch.empty(self.rows, self.columns, dtype=self.torch_dtype)
        for block in row_blocks(self.rows, self.columns):
            weight[block] = _rows_of(grid, keep, block, self.torch_dtype)
        return weight.reshape(self.shape)

    def _group(self, parts: Mapping[str, Tensor]) -> Tensor:
        if self.group_size is not None:
            return torch.arange(self.columns) // self.group_size
        group = parts["group"].long()
        if not 0 <= int(group.min()) <= int(group.max()) < self.groups:
            raise InputError(f"the grid of a column is not among its {self.groups}")
        return group


def _rows_of(grid: StoredGrid, keep: Tensor | None, block: slice, dtype: torch.dtype) -> Tensor:
    rows = StoredGrid(grid.codes[block], grid.scale[block], grid.zero[block], grid.group, grid.bits).weight
    return (rows if keep is None else rows.masked_fill(~keep[block], 0.0)).to(dtype)


def _survivors(matrix: Matrix, grid: StoredGrid) -> int:
    """Codes to store: those of the survivors, or of all weights where that is less than a mask takes."""
    everything = matrix.weight.numel()
    if matrix.keep is None:
        return everything
    kept = int(matrix.keep.sum())
    masked = stream_bytes(kept, grid.bits) + mask_part(*matrix.keep.shape).bytes
    return kept if masked < stream_bytes(everything, grid.bits) else everything


def _group_size(grid: StoredGrid) -> int | None:
    size = int((grid.group == 0).sum())
    plain = size > 0 and grid.group.equal((torch.arange(len(grid.group)) // size).to(grid.group.dtype))
    return size if plain and -(-len(grid.group) // size) == grid.scale.shape[1] else None


def _is_of(matrix: Matrix, grid: StoredGrid) -> bool:
    """Whether the codes fit into their bits and give the stored weights bit for bit."""
    keep, top = matrix.keep, 2**grid.bits - 1
    rows, columns = matrix.bits.shape
    groups = grid.scale.shape[1]
    if grid.codes.shape != (rows, columns) or matrix.weight.ndim != 2 or int(grid.codes.max()) > top:
        return False
    if not ((grid.zero >= 0) & (grid.zero <= top) & (grid.zero == grid.zero.round())).all():
        return False
    if not 0 <= int(grid.group.min()) <= int(grid.group.max()) < groups:
        return False
    # Where no mask is stored, the removed weights have to come out of their codes.
    if keep is not None and _survivors(matrix, grid) == matrix.weight.numel():
        keep = None
    return all(
        _rows_of(grid, keep, block, matrix.weight.dtype).view(matrix.bits.dtype).equal(matrix.bits[block])
        for block in row_blocks(rows, columns)
    )
