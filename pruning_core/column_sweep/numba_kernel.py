"""The CPU kernel: the columns of a block fused into one pass over row tiles that stay in the nearest caches."""

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from torch import Tensor

from pruning_core.column_sweep import GroupRule
from pruning_core.column_sweep.grids import BlockGrid
from pruning_core.numerics.threads import share_rows

LANES = 64
"""Rows that are swept together, side by side in memory: one column of them is eight AVX registers."""
CHUNK = 4
"""Columns that are fixed before their pushes reach the later ones, which are then loaded and stored once for all."""
LEAST_ROWS = 2 * LANES
"""Rows below which a second thread costs more than it gives."""

_VIEW = types.Array(types.float32, 2, "A")
_FLOATS = types.Array(types.float32, 2, "C")
_BYTES = types.Array(types.uint8, 2, "C")
_GROUPS = (types.Array(types.float32, 1, "C"), types.UniTuple(types.int64, 3))
_GRID = (_FLOATS, _FLOATS, types.Array(types.int64, 1, "C"), types.float32, _BYTES)


@functools.cache
def _compiled(chooses: bool, rounds: bool) -> Callable[..., None]:
    """The kernel for sweeps that choose groups of N:M or not, and round to a grid or not.

    Arguments that are None take their branches out of the code. Compiled for one signature: left to itself numba
    would compile again for every memory layout it meets. Kept on the disk for the next process, beside Python's own
    compiled files or in the user's cache (or in NUMBA_CACHE_DIR), by processor and source.
    """
    groups = _GROUPS if chooses else (types.none,) * len(_GROUPS)
    grid = _GRID if rounds else (types.none,) * len(_GRID)
    signature = types.void(types.int64, types.int64, _VIEW, _FLOATS, _BYTES, _FLOATS, *groups, *grid)
    compiled = functools.partial(numba.njit, signature, nogil=True, error_model="numpy", fastmath={"contract"})
    try:
        return compiled(cache=True)(_fix_rows)
    except (OSError, EOFError, RuntimeError):
        # No folder that may be written to, no room in it, or a file cut short by a power failure.
        return compiled()(_fix_rows)


def _fix_rows(begin, end, weight, upper, removed, error, scale, groups, steps, zeros, group, top, codes):
    width = weight.shape[1]
    size, count, count_last = (0, 0, 0) if groups is None else groups
    # Transposed, so that every inner loop runs over rows: they are independent, and as many for the last column of a
    # block as for the first. Lanes without a row stay zero.
    tile = np.zeros((width, LANES), np.float32)
    gone = np.zeros((width, LANES), np.float32)
    push = np.zeros((width, LANES), np.float32)
    scores = np.zeros((max(size, 1), LANES), np.float32)
    before = np.zeros(LANES, np.int32)
    step = np.ones(LANES, np.float32)
    zero = np.zeros(LANES, np.float32)
    rounded = np.zeros(LANES, np.float32)
    # A number that the compiler does not know: it would unroll loops of known length rather than make vector code.
    lanes = tile.shape[1] + (begin >> 60)
    for first in range(begin, end, LANES):
        rows = min(LANES, end - first)
        held = -1
        for row in range(rows):
            for column in range(width):
                tile[column, row] = weight[first + row, column]
                gone[column, row] = removed[first + row, column]
        start = 0
        while start < width:
            stop = min(start + CHUNK, width)
            if groups is not None:
                # All earlier pushes must have reached the members of a group when it is chosen.
                following = start + size - start % size
                if following < stop < following + size:
                    stop = following
            for column in range(start, stop):
                if groups is not None and column % size == 0:
                    members = min(size, width - column)
                    chosen = count if members == size else count_last
                    for member in range(members):
                        factor = scale[column + member]
                        for lane in range(lanes):
                            value = tile[column + member, lane]
                            scores[member, lane] = value * value * factor
                    # The lowest go, ties to the lower index: counting who comes before needs no branch.
                    for member in range(members):
                        before[:] = 0
                        for other in range(member):
                            for lane in range(lanes):
                                before[lane] += scores[other, lane] <= scores[member, lane]
                        for other in range(member + 1, members):
                            for lane in range(lanes):
                                before[lane] += scores[other, lane] < scores[member, lane]
                        for lane in range(lanes):
                            gone[column + member, lane] = np.float32(before[lane] < chosen)
                pivot = upper[column, column]
                if steps is not None:
                    if group[column] != held:
                        held = group[column]
                        for row in range(rows):
                            step[row] = steps[first + row, held]
                            zero[row] = zeros[first + row, held]
                    for lane in range(lanes):
                        current = tile[column, lane]
                        code = np.rint(current / step[lane]) + zero[lane]
                        code = min(max(code, np.float32(0.0)), top)
                        code = zero[lane] if gone[column, lane] > 0 else code
                        final = step[lane] * (code - zero[lane])
                        tile[column, lane] = final
                        push[column, lane] = (current - final) / pivot
                        rounded[lane] = code
                    for row in range(rows):
                        codes[first + row, column] = np.uint8(rounded[row])
                else:
                    # Kept weights push nothing; pushing it anyway is faster than a branch that nobody can predict.
                    for lane in range(lanes):
                        current = tile[column, lane]
                        final = current - current * gone[column, lane]
                        tile[column, lane] = final
                        push[column, lane] = (current - final) / pivot
                for later in range(column + 1, stop):
                    reach = upper[column, later]
                    for lane in range(lanes):
                        tile[later, lane] -= push[column, lane] * reach
            if stop - start == CHUNK:
                for later in range(stop, width):
                    # Read before the loop over lanes, whose stores might change them for all the compiler knows.
                    first_reach, second_reach = upper[start, later], upper[start + 1, later]
                    third_reach, fourth_reach = upper[start + 2, later], upper[start + 3, later]
                    for lane in range(lanes):
                        value = tile[later, lane]
                        value -= push[start, lane] * first_reach
                        value -= push[start + 1, lane] * second_reach
                        value -= push[start + 2, lane] * third_reach
                        value -= push[start + 3, lane] * fourth_reach
                        tile[later, lane] = value
            else:
                for column in range(start, stop):
                    for later in range(stop, width):
                        reach = upper[column, later]
                        for lane in range(lanes):
                            tile[later, lane] -= push[column, lane] * reach
            start = stop
        for row in range(rows):
            for column in range(width):
                weight[first + row, column] = tile[column, row]
                error[first + row, column] = push[column, row]
                removed[first + row, column] = np.uint8(gone[column, row])


def fix_columns(
    weight: Tensor,
    upper: Tensor,
    removed: Tensor,
    error: Tensor,
    scale: Tensor,
    groups: GroupRule | None,
    grid: BlockGrid | None,
) -> None:
    """Fix the columns of one block (see `pruning_core.column_sweep.Kernel`); threads share the rows."""
    arrays = (weight.numpy(), upper.numpy(), removed.numpy().view(np.uint8), error.numpy())
    rule = (None, None) if groups is None else (scale.numpy(), (groups.size, groups.removed, groups.removed_last))
    rounding = (None,) * len(_GRID) if grid is None else _arrays(grid)
    fix_rows = _compiled(groups is not None, grid is not None)
    share_rows(lambda first, last: fix_rows(first, last, *arrays, *rule, *rounding), weight.shape[0], LEAST_ROWS)


def _arrays(grid: BlockGrid) -> tuple[Any, ...]:
    return grid.scale.numpy(), grid.zero.numpy(), grid.group.numpy(), np.float32(grid.top), grid.codes.numpy()
