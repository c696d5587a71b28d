"""The CPU kernel: the columns of a block fused into one pass over row tiles that stay in the first-level cache."""

import numba
import numpy as np
from numba import types
from torch import Tensor

from pruning_core.quantizers.grids import BlockGrid
from pruning_core.sweep import GroupRule
from pruning_core.threads import share_rows

TILE = 16
"""Rows that share one pass over U: 16 rows of 128 float32 are 8 KiB, and each row of U is read once per tile."""
LEAST_ROWS = 2 * TILE
"""Rows below which a second thread costs more than it gives."""

_VIEW = types.Array(types.float32, 2, "A")
_FLOATS = types.Array(types.float32, 2, "C")
_BYTES = types.Array(types.uint8, 2, "C")
_SIGNATURE = types.void(
    types.int64,
    types.int64,
    _VIEW,
    _FLOATS,
    _BYTES,
    _FLOATS,
    types.Array(types.float32, 1, "C"),
    types.UniTuple(types.int64, 3),
    _FLOATS,
    _FLOATS,
    types.Array(types.int64, 1, "C"),
    types.int64,
    _BYTES,
)


# One signature, compiled when this module is imported: numba would compile again for every memory layout it meets.
@numba.njit(_SIGNATURE, nogil=True, error_model="numpy", fastmath={"contract"})
def _fix_rows(begin, end, weight, upper, removed, error, scale, groups, steps, zeros, group, top, codes):
    width = weight.shape[1]
    size, count, count_last = groups
    # Contiguous, unlike the block of a wider matrix that `weight` is, so that the inner loop becomes vector code.
    tile = np.empty((TILE, width), np.float32)
    scores = np.empty(max(size, 1), np.float32)
    for first in range(begin, end, TILE):
        rows = min(TILE, end - first)
        for row in range(rows):
            for column in range(width):
                tile[row, column] = weight[first + row, column]
        for column in range(width):
            pivot = upper[column, column]
            if size > 0 and column % size == 0:
                stop = min(column + size, width)
                chosen = count if stop - column == size else count_last
                for row in range(rows):
                    for member in range(stop - column):
                        value = tile[row, column + member]
                        scores[member] = value * value * scale[column + member]
                    # The lowest go, ties to the lower index: counting who comes before needs no branch.
                    for member in range(stop - column):
                        before = 0
                        for other in range(member):
                            before += scores[other] <= scores[member]
                        for other in range(member + 1, stop - column):
                            before += scores[other] < scores[member]
                        removed[first + row, column + member] = before < chosen
            for row in range(rows):
                current = tile[row, column]
                # Kept weights push nothing; pushing it anyway is faster than a branch that nobody can predict.
                final = current - current * np.float32(removed[first + row, column])
                if top > 0:
                    zero = zeros[first + row, group[column]]
                    code = zero
                    if removed[first + row, column] == 0:
                        step = steps[first + row, group[column]]
                        code = min(max(np.rint(current / step) + zero, np.float32(0.0)), np.float32(top))
                        final = step * (code - zero)
                    codes[first + row, column] = np.uint8(code)
                push = (current - final) / pivot
                error[first + row, column] = push
                tile[row, column] = final
                for later in range(width - column - 1):
                    tile[row, column + 1 + later] -= push * upper[column, column + 1 + later]
        for row in range(rows):
            for column in range(width):
                weight[first + row, column] = tile[row, column]


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
    arrays = (weight.numpy(), upper.numpy(), removed.numpy().view(np.uint8), error.numpy(), scale.numpy())
    rounding = _NO_GRID if grid is None else _arrays(grid)
    share_rows(lambda first, last: _fix_rows(first, last, *arrays, rule, *rounding), weight.shape[0], LEAST_ROWS)


def _arrays(grid: BlockGrid) -> tuple:
    return grid.scale.numpy(), grid.zero.numpy(), grid.group.numpy(), grid.top, grid.codes.numpy()
