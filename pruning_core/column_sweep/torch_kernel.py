"""The readable kernel: one column at a time, on any device. The others are tested against it."""

from torch import Tensor

from pruning_core.column_sweep import GroupRule
from pruning_core.column_sweep.grids import BlockGrid
from pruning_core.numerics.selection import smallest
from pruning_core.quantizers.affine import codes_of


def fix_columns(
    weight: Tensor,
    upper: Tensor,
    removed: Tensor,
    error: Tensor,
    scale: Tensor,
    groups: GroupRule | None,
    grid: BlockGrid | None,
) -> None:
    """Fix the columns of one block (see `pruning_core.column_sweep.Kernel`)."""
    width = weight.shape[1]
    for column in range(width):
        if groups and column % groups.size == 0:
            group = slice(column, min(column + groups.size, width))
            whole = group.stop - column == groups.size
            count = groups.removed if whole else groups.removed_last
            removed[:, group] = smallest(weight[:, group].square() * scale[group], count)
        current = weight[:, column].clone()
        final = current
        if grid:
            step, zero = grid.scale[:, grid.group[column]], grid.zero[:, grid.group[column]]
            codes = codes_of(current, step, zero, grid.top)
            # The code of a removed weight is the one that means zero.
            codes = codes.where(~removed[:, column], zero)
            grid.codes[:, column] = codes.to(grid.codes.dtype)
            final = step * (codes - zero)
        final = final.masked_fill(removed[:, column], 0.0)
        error[:, column] = (current - final) / upper[column, column]
        weight[:, column:] -= error[:, column, None] * upper[column, column:]
        weight[:, column] = final
