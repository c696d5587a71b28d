"""The CPU kernel: the columns of a block fused into one pass over row tiles that stay in the first-level cache."""

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor

from pruning_core.quantizers.grids import BlockGrid
from pruning_core.sweep import GroupRule

TILE = 16
"""Rows that share one pass over U: 16 rows of 128 float32 are 8 KiB, and each row of U is read once per tile."""


@numba.njit(nogil=True, fastmath={"contract"})
def _choose(row, removed, scale, first, last, count):
    """Mark the `count` smallest w^2 * scale of row[first:last]; ties go to the lower index."""
    for column in range(first, last):
        removed[column] = False
    for _ in range(count):
        best = -1
        lowest = np.float32(np.inf)
        for column in range(first, last):
            score = row[column] * row[column] * scale[column]
            if not removed[column] and (best < 0 or score < lowest):
                best = column
                lowest = score
        removed[best] = True


@numba.njit(nogil=True, fastmath={"contract"})
def _rounded(value, step, zero, top, codes, column):
    """`value` on the grid; its code is noted."""
    code = min(max(np.rint(value / step) + zero, np.float32(0.0)), np.float32(top))
    codes[column] = np.uint8(code)
    return step * (code - zero)


@numba.njit(nogil=True, fastmath={"contract"})
def _fix_rows(weight, upper, removed, error, scale, groups, steps, zeros, group, top, codes):
    rows, width = weight.shape
    size, count, count_last = groups
    for first in range(0, rows, TILE):
        last = min(first + TILE, rows)
        for column in range(width):
            pivot = upper[column, column]
            for row in range(first, last):
                if size > 0 and column % size == 0:
                    end = min(column + size, width)
                    chosen = count if end - column == size else count_last
                    _choose(weight[row], removed[row], scale, column, end, chosen)
                current = weight[row, column]
                final = current
                if removed[row, column]:
                    final = np.float32(0.0)
                    if top > 0:
                        codes[row, column] = np.uint8(zeros[row, group[column]])
                elif top > 0:
                    step = steps[row, group[column]]
                    final = _rounded(current, step, zeros[row, group[column]], top, codes[row], column)
                if final == current:
                    error[row, column] = 0.0
                    continue
                push = (current - final) / pivot
                error[row, column] = push
                weight[row, column] = final
                for later in range(column + 1, width):
                    weight[row, later] -= push * upper[column, later]


_NO_GRID = (
    np.zeros((0, 1), np.float32),
    np.zeros((0, 1), np.float32),
    np.zeros(0, np.int64),
    0,
    np.zeros((0, 0), np.uint8),
)


def fix_columns(
    weight: Tensor,
    upper: Tensor,
    removed: Tensor,
    error: Tensor,
    scale: Tensor,
    groups: GroupRule | None,
    grid: BlockGrid | None,
) -> None:
    """Fix the columns of one block (see `pruning_core.sweep.Kernel`); rows are independent, so threads share them."""
    rule = (groups.size, groups.removed, groups.removed_last) if groups else (0, 0, 0)
    arrays = [tensor.numpy() for tensor in (weight, removed, error)]
    factor, importance = upper.numpy(), scale.numpy()

    def fix(part: slice) -> None:
        steps, zeros, group, top, codes = _NO_GRID if grid is None else _arrays(grid, part)
        own = [array[part] for array in arrays]
        _fix_rows(own[0], factor, own[1], own[2], importance, rule, steps, zeros, group, top, codes)

    threads = torch.get_num_threads()
    rows = weight.shape[0]
    if threads == 1 or rows < 4 * TILE:
        fix(slice(0, rows))
        return
    share = -(-rows // threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fix, [slice(first, min(first + share, rows)) for first in range(0, rows, share)]))


def _arrays(grid: BlockGrid, part: slice) -> tuple:
    return grid.scale[part].numpy(), grid.zero[part].numpy(), grid.group.numpy(), grid.top, grid.codes[part].numpy()
