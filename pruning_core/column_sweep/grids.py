"""The grids of one matrix during a column sweep: which exist from the start, and which are fitted on the way."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pruning_core.quantizers import Grid, Quantizer


@dataclass(frozen=True)
class BlockGrid:
    """What a kernel needs to round the columns of one block."""

    scale: Tensor = field(repr=False)
    """[rows, groups] float32, all groups of the matrix."""
    zero: Tensor = field(repr=False)
    """[rows, groups] float32."""
    group: Tensor = field(repr=False)
    """[width] int64: the group of each column of the block."""
    top: int
    """Highest code."""
    codes: Tensor = field(repr=False)
    """[rows, width] uint8, written by the kernel."""


class Grids:
    """Grids and codes of a matrix whose columns a column sweep visits in the order `order`.

    Args:
        quantizer: fits a grid.
        dense: [rows, in] float32 in natural column order, what grids that are fitted beforehand are fitted on.
        order: [in] int64, position -> natural column; None for natural order.
    """

    def __init__(self, quantizer: Quantizer, dense: Tensor, order: Tensor | None = None) -> None:
        rows, columns = dense.shape
        self.quantizer = quantizer
        self.size = quantizer.group_size or columns
        fitted_before = quantizer.group_size is None or quantizer.static_groups
        position = torch.arange(columns, device=dense.device)
        # Groups fitted on the way are runs of the sweep's order; the others are runs of the natural order.
        self.group = (order if fitted_before and order is not None else position) // self.size
        groups = -(-columns // self.size)
        self.scale = torch.ones(rows, groups, dtype=torch.float32, device=dense.device)
        self.zero = torch.zeros_like(self.scale)
        self.codes = torch.zeros(rows, columns, dtype=torch.uint8, device=dense.device)
        self._fit_on_the_way = not fitted_before
        if fitted_before:
            for group in range(groups):
                self._fit(group, dense[:, group * self.size : (group + 1) * self.size])

    def enter(self, work: Tensor, start: int, stop: int) -> BlockGrid:
        """The grid for columns start..stop of the sweep; groups that begin there are fitted on `work` as it is now."""
        if self._fit_on_the_way:
            for group in range(-(-start // self.size), -(-stop // self.size)):
                self._fit(group, work[:, group * self.size : (group + 1) * self.size])
        codes = torch.zeros(len(work), stop - start, dtype=torch.uint8, device=work.device)
        return BlockGrid(self.scale, self.zero, self.group[start:stop].contiguous(), self.quantizer.levels - 1, codes)

    def leave(self, grid: BlockGrid, start: int, stop: int) -> None:
        """Keep the codes that the kernel wrote."""
        self.codes[:, start:stop] = grid.codes

    def grid(self) -> Grid:
        """All grids."""
        return Grid(self.scale, self.zero)

    def _fit(self, group: int, values: Tensor) -> None:
        self.scale[:, group], self.zero[:, group] = self.quantizer.fit(values)
