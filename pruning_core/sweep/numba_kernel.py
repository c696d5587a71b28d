"""The CPU kernel: the columns of a block fused into one pass over small row tiles that stay in the first-level cache."""

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor

TILE = 16
"""Rows that share one pass over U: 16 rows of 128 float32 are 8 KiB, and each row of U is read once per tile."""


@numba.njit(nogil=True, fastmath={"contract"})
def _choose(row, removed, scale, first, keep, group):
    """Mark the group - keep smallest w^2 * scale of row[first:first + group]; ties go to the lower index."""
    for offset in range(group):
        removed[first + offset] = False
    for _ in range(group - keep):
        best = -1
        lowest = np.float32(np.inf)
        for offset in range(first, first + group):
            score = row[offset] * row[offset] * scale[offset]
            if not removed[offset] and (best < 0 or score < lowest):
                best = offset
                lowest = score
        removed[best] = True


@numba.njit(nogil=True, fastmath={"contract"})
def _fix_rows(weight, upper, removed, error, scale, keep, group):
    rows, width = weight.shape
    for top in range(0, rows, TILE):
        bottom = min(top + TILE, rows)
        for column in range(width):
            reciprocal = np.float32(1.0) / upper[column, column]
            for row in range(top, bottom):
                if group > 0 and column % group == 0:
                    _choose(weight[row], removed[row], scale, column, keep, group)
                if not removed[row, column]:
                    error[row, column] = 0.0
                    continue
                push = weight[row, column] * reciprocal
                error[row, column] = push
                weight[row, column] = 0.0
                for later in range(column + 1, width):
                    weight[row, later] -= push * upper[column, later]


def fix_columns(
    weight: Tensor,
    upper: Tensor,
    removed: Tensor,
    error: Tensor,
    scale: Tensor,
    n_of_m: tuple[int, int] | None,
) -> None:
    """Fix the columns of one block (see `pruning_core.sweep.Kernel`); rows are independent, so threads share them."""
    keep, group = n_of_m or (0, 0)
    arrays = [tensor.numpy() for tensor in (weight, removed, error)]
    shared = upper.numpy(), scale.numpy()

    def fix(part: slice) -> None:
        _fix_rows(arrays[0][part], shared[0], arrays[1][part], arrays[2][part], shared[1], keep, group)

    threads = torch.get_num_threads()
    rows = weight.shape[0]
    if threads == 1 or rows < 4 * TILE:
        fix(slice(0, rows))
        return
    share = -(-rows // threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fix, [slice(first, min(first + share, rows)) for first in range(0, rows, share)]))
