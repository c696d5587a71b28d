"""Exact-count selection: the k smallest entries, ties resolved by position."""

import numpy as np
import torch
from torch import Tensor


def smallest(score: Tensor, count: Tensor | int) -> Tensor:
    """True at exactly `count` entries of each row: the smallest, ties going to the lower index.

    A threshold removes every tie at the cut; a count never does. Linear in the size of `score`: a selection and two
    passes, no full sort.

    Args:
        score: [rows, n] float without NaN.
        count: removed entries per row: one int for all rows, or an integer tensor [rows]; 0 <= count <= n.

    Returns:
        [rows, n] bool.
    """
    if isinstance(count, int):
        return _smallest_uniform(score, count)
    selected = torch.zeros_like(score, dtype=torch.bool)
    for value in count.unique().tolist():
        group = count == value
        selected[group] = _smallest_uniform(score[group], int(value))
    return selected


def _smallest_uniform(score: Tensor, count: int) -> Tensor:
    rows, n = score.shape
    if not 0 <= count <= n:
        raise ValueError(f"cannot select {count} of {n} entries")
    if count in (0, n) or rows == 0:
        return torch.full_like(score, count == n, dtype=torch.bool)
    cut = kth_smallest(score, count)
    selected = score <= cut
    if int(selected.sum()) == rows * count:
        return selected
    below = score < cut
    ties = selected & ~below
    missing = count - below.sum(dim=1, keepdim=True)
    return below | (ties & (ties.cumsum(dim=1) <= missing))


def kth_smallest(score: Tensor, rank: int) -> Tensor:
    """[rows, 1]: the entry of each row that has `rank` - 1 entries before it in ascending order, 1 <= rank <= n."""
    if score.device.type == "cpu" and score.dtype == torch.float32:
        # NumPy's vectorized partition is about ten times as fast as torch's selection, and finds the same value.
        return torch.from_numpy(np.partition(score.numpy(), rank - 1, axis=1)[:, rank - 1 : rank].copy())
    # On a GPU torch selects with one thread block per row, and sorts with all of them.
    return score.sort(dim=1).values[:, rank - 1 : rank] if score.is_cuda else score.kthvalue(rank, 1, True).values


def rounded_count(size: int, fraction: float) -> int:
    """The whole number nearest to size * fraction; an exact half goes down.

    Plain truncation loses a weight to binary fractions: int(100 * 0.29) is 28.
    """
    exact = size * fraction
    nearest = int(exact + 0.5)
    # The tolerance grows with what a fraction's last bit weighs, and stays a tolerance for the largest matrices.
    return nearest - 1 if abs(nearest - 0.5 - exact) < min(1e-9 * max(size, 1), 0.25) else nearest
