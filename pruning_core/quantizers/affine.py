"""Affine integer grids, as GPTQ fits them."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from pruning_core.quantizers import QUANTIZERS

SEARCH_STEPS = 80
"""The mse search shrinks the range by 0 %, 1 %, ... 79 %."""
SEARCH_NORM = 2.4
"""Exponent of its error."""


@QUANTIZERS.register("affine")
class Affine:
    """value = scale (clamp(round(w / scale) + zero, 0, 2^bits - 1) - zero) (GPTQ, arXiv:2210.17323).

    Zero is always on the grid, so that a pruned weight stays exactly zero.

    bits: 2 to 8.
    symmetric: zero sits at the middle code 2^(bits - 1); the scale covers the largest magnitude.
    group_size: columns that share a grid; absent: a whole row does.
    order: natural, or activation: the columns with the largest inputs are fixed first.
    static_groups: group grids are fitted on the dense matrix in its own column order before the column sweep; otherwise
        each is fitted when the sweep enters the block in which the group begins.
    search: minmax takes the whole range; mse shrinks it where that lowers sum |q - w|^2.4.
    """

    bits: Annotated[int, Field(ge=2, le=8)] = 4
    symmetric: bool = False
    group_size: Annotated[int, Field(ge=1)] | None = None
    order: Literal["natural", "activation"] = "natural"
    static_groups: bool = False
    search: Literal["minmax", "mse"] = "minmax"

    @property
    def levels(self) -> int:
        return 1 << self.bits

    def fit(self, values: Tensor) -> tuple[Tensor, Tensor]:
        top = self.levels - 1
        low, high = self._range(values)
        scale = (high - low) / top
        zero = torch.full_like(scale, (top + 1) / 2) if self.symmetric else torch.round(-low / scale)
        if self.search == "mse":
            scale, zero = self._searched(values, low, high, scale, zero)
        return scale, zero

    def _range(self, values: Tensor) -> tuple[Tensor, Tensor]:
        low, high = values.amin(dim=1).clamp(max=0), values.amax(dim=1).clamp(min=0)
        if self.symmetric:
            # A row without negative values needs the same span, or the upper half of its range would be clipped.
            high = torch.maximum(low.abs(), high)
            low = -high
        empty = (low == 0) & (high == 0)
        return low.masked_fill(empty, -1.0), high.masked_fill(empty, 1.0)

    def _searched(
        self, values: Tensor, low: Tensor, high: Tensor, scale: Tensor, zero: Tensor
    ) -> tuple[Tensor, Tensor]:
        top = self.levels - 1
        best = torch.full_like(scale, torch.inf)
        fitted = scale.clone(), zero.clone()
        for step in range(SEARCH_STEPS):
            shrunk = (1 - step / 100) * (high - low) / top
            middle = zero if self.symmetric else torch.round(-(1 - step / 100) * low / shrunk)
            error = (rounded(values, shrunk[:, None], middle[:, None], top) - values).abs().pow(SEARCH_NORM).sum(dim=1)
            better = error < best
            best = torch.where(better, error, best)
            fitted = torch.where(better, shrunk, fitted[0]), torch.where(better, middle, fitted[1])
        return fitted


def codes_of(values: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
    """Nearest codes 0..top, as float; halves go to the even neighbour."""
    return (torch.round(values / scale) + zero).clamp(0, top)


def rounded(values: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
    """`values` moved to the grid."""
    return scale * (codes_of(values, scale, zero, top) - zero)
