"""Exact budgets: sparsities that are meant to average to a target become whole numbers that do."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from pruning_core.errors import InputError

BISECTIONS = 200
"""More than a float64 has bits between the ends of any interval of sparsities."""


def budget_of(total: int, target: float) -> int:
    """Weights to remove of `total`: the nearest whole number to total * target, an exact half down.

    Exact for totals of any size: `target` is the decimal that was written, not the binary fraction next to it.
    """
    return math.ceil(Fraction(repr(float(target))) * total - Fraction(1, 2))


def bounds_around(target: float, low: float | None = None, high: float | None = None) -> tuple[float, float]:
    """The sparsities that no matrix leaves: as given, or target - 0.25 and target + 0.2 within 0 and 0.95.

    Raises:
        InputError: given bounds that exclude the target.
    """
    low = max(0.0, target - 0.25) if low is None else low
    high = max(target, min(0.95, target + 0.2)) if high is None else high
    if not 0 <= low <= target <= high <= 1:
        raise InputError(
            f"no allocation between {low:g} and {high:g} has a mean sparsity of {target:g}; "
            "choose low <= sparsity <= high within [0, 1]"
        )
    return low, high


def shifted(raw: Sequence[float], sizes: Sequence[int], target: float, low: float, high: float) -> list[float]:
    """clip(raw + mu, low, high) with the one mu that makes its mean, weighted by `sizes`, the target.

    Args:
        raw: [matrices] sparsities before the shift.
        sizes: [matrices] weights.

    Returns:
        [matrices] sparsities; their weighted mean is the target but for float64's rounding.

    Raises:
        InputError: the target is outside the bounds.
    """
    bounds_around(target, low, high)
    unshifted, weights = np.asarray(raw, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    weights = weights / weights.sum()
    left, right = low - unshifted.max(), high - unshifted.min()
    for _ in range(BISECTIONS):
        middle = (left + right) / 2
        if float((weights * np.clip(unshifted + middle, low, high)).sum()) < target:
            left = middle
        else:
            right = middle
    sparsities: list[float] = np.clip(unshifted + right, low, high).tolist()
    return sparsities


def zero_counts(sparsities: Sequence[float], sizes: Sequence[int], target: float) -> list[int]:
    """Whole numbers of zeros near sparsities * sizes whose sum is `budget_of(sum(sizes), target)`.

    By largest remainder, and where the sparsities miss the target by more than a weight per matrix, evenly over what
    is left of each. Ties go to the lower index; every count is within 0 and its size.
    """
    budget = budget_of(sum(sizes), target)
    ideal = [min(max(share, 0.0), 1.0) * size for share, size in zip(sparsities, sizes, strict=True)]
    counts = [math.floor(value + 1e-9) for value in ideal]
    order = sorted(range(len(sizes)), key=lambda index: (counts[index] - ideal[index], index))
    missing = budget - sum(counts)
    while missing:
        sign = 1 if missing > 0 else -1
        room = [index for index in order if (counts[index] < sizes[index] if sign > 0 else counts[index] > 0)]
        # Whole rounds at once, so that sparsities far from the target do not take one weight at a time.
        if abs(missing) >= len(room):
            spare = min(sizes[index] - counts[index] if sign > 0 else counts[index] for index in room)
            each = min(abs(missing) // len(room), spare)
            changed = room
        else:
            each = 1
            changed = room[: abs(missing)] if sign > 0 else room[missing:]
        for index in changed:
            counts[index] += sign * each
        missing -= sign * each * len(changed)
    return counts


def kept_counts(sparsities: Sequence[float], sizes: Sequence[int], m: int, target: float) -> list[int]:
    """n of every m per matrix, in 1 ... m, near m * (1 - sparsities), for N:M patterns of mixed n.

    The whole is never denser than the target; it is sparser by less than one level of the smallest matrix where the
    numbers allow (with levels of unequal size an exact budget may not exist).

    Raises:
        InputError: even one of every m is more than the target allows.
    """
    limit = m * (sum(sizes) - budget_of(sum(sizes), target))
    if sum(sizes) > limit:
        raise InputError(
            f"a sparsity of {target:g} leaves less than one weight of every {m}; choose a larger m or a lower sparsity"
        )
    ideal = [m * (1 - min(max(share, 0.0), 1.0)) for share in sparsities]
    counts = [min(max(math.floor(value + 1e-9), 1), m) for value in ideal]
    slack = limit - sum(size * count for size, count in zip(sizes, counts, strict=True))
    slack = _thinned(counts, ideal, sizes, slack)
    slack = _filled(counts, ideal, sizes, m, slack)
    _exchanged(counts, sizes, m, slack)
    return counts


def _thinned(counts: list[int], ideal: list[float], sizes: Sequence[int], slack: int) -> int:
    """Take levels from the matrices that are furthest above their ideal until the slack is not negative."""
    while slack < 0:
        above = [index for index, count in enumerate(counts) if count > 1]
        index = max(above, key=lambda index: (counts[index] - ideal[index], index))
        counts[index] -= 1
        slack += sizes[index]
    return slack


def _filled(counts: list[int], ideal: list[float], sizes: Sequence[int], m: int, slack: int) -> int:
    """Give levels to the matrices that are furthest below their ideal while any fits."""
    while fitting := [index for index, count in enumerate(counts) if count < m and sizes[index] <= slack]:
        index = max(fitting, key=lambda index: (ideal[index] - counts[index], -index))
        counts[index] += 1
        slack -= sizes[index]
    return slack


def _exchanged(counts: list[int], sizes: Sequence[int], m: int, slack: int) -> None:
    """Where only full matrices would fit: take their levels one by one until a larger matrix fits instead."""
    smallest = min(sizes)
    larger = [index for index, count in enumerate(counts) if count < m]
    if slack < smallest or not larger:
        return
    taker = min(larger, key=lambda index: (sizes[index], index))
    givers = [index for index, size in enumerate(sizes) if size == smallest]
    spare = sum(counts[index] - 1 for index in givers)
    needed = -((slack - sizes[taker]) // smallest)
    if needed > spare:
        return
    for _ in range(needed):
        counts[max(givers, key=lambda index: (counts[index], index))] -= 1
    counts[taker] += 1
