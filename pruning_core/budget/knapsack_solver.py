"""The allocation with the least sum of measured errors: a multiple-choice knapsack, exact wherever its table fits."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from pruning_core.budget.levels import Genome, Levels
from pruning_core.budget.repair import repaired
from pruning_core.errors import ComputationError

LARGEST = 4_000_000_000
"""Table entries times levels up to which the exact solution takes seconds."""
WIDEST = 200_000_000
"""Bytes of choices that the exact solution may remember."""


def knapsack(levels: Levels, errors: Sequence[Sequence[float]], largest: int = LARGEST) -> Genome:
    """The genome with the least total error among those that meet the budget within the slack.

    Dynamic programming over the removed weights in units of their greatest common divisor; where that table would be
    too large, the lower convex hulls of the errors are walked greedily and the rest is filled by best fit.

    Args:
        errors: [matrix][level], in one unit for all matrices; need not be monotone.
        largest: table entries times levels up to which the solution is exact.

    Raises:
        ComputationError: an error that is no finite number.
    """
    costs = levels.gene_errors(errors)
    if not all(math.isfinite(value) for row in costs for value in row):
        raise ComputationError("a level's error is no finite number; the knapsack cannot rank it")
    zeros = levels.gene_zeros
    unit = math.gcd(*(row[level] - row[0] for row in zeros for level in range(1, len(row))), 0) or 1
    need = levels.budget - sum(row[0] for row in zeros)
    # More than the budget and its slack never helps, so the table ends there.
    units = max(-(-(need + levels.slack) // unit), 1)
    most = max(len(row) for row in zeros)
    if units * len(zeros) * most > largest or units * len(zeros) * 2 > WIDEST:
        return repaired(levels, levels.spread(_along_the_hulls(levels, costs)), errors)
    return levels.check(levels.spread(_exact(zeros, costs, unit, units, need)))


def _exact(
    zeros: Sequence[Sequence[int]], costs: Sequence[Sequence[float]], unit: int, units: int, need: int
) -> list[int]:
    """A level per gene; row after row, the least error for every number of removed units below `units`."""
    best = np.full(units, np.inf)
    best[0] = 0.0
    levels = np.zeros((len(zeros), units), dtype=np.int16)
    for gene, (row, cost) in enumerate(zip(zeros, costs, strict=True)):
        following = np.full(units, np.inf)
        for level, (removed, error) in enumerate(zip(row, cost, strict=True)):
            shift = (removed - row[0]) // unit
            if shift >= units:
                break
            offered = best[: units - shift] + error
            better = offered < following[shift:]
            following[shift:][better] = offered[better]
            levels[gene, shift:][better] = level
        best = following
    first = -(-need // unit)
    at = first + int(np.argmin(best[first:]))
    if not np.isfinite(best[at]):
        raise ComputationError("no set of levels meets the budget; this is an error of the menu")
    gene_levels: list[int] = []
    for gene in reversed(range(len(zeros))):
        level = int(levels[gene, at])
        at -= (zeros[gene][level] - zeros[gene][0]) // unit
        gene_levels.insert(0, level)
    return gene_levels


def _along_the_hulls(levels: Levels, costs: Sequence[Sequence[float]]) -> list[int]:
    """Greedy by error per weight along each gene's lower convex hull, up to the last step that stays within budget."""
    zeros = levels.gene_zeros
    steps = []
    for gene, row in enumerate(zeros):
        hull = _lower_hull(row, costs[gene])
        for here, there in itertools.pairwise(hull):
            weights = row[there] - row[here]
            steps.append(((costs[gene][there] - costs[gene][here]) / weights, gene, there, weights))
    at, removed = [0] * len(zeros), sum(row[0] for row in zeros)
    # Slopes of a hull rise, so the order of the sort is an order in which each gene's steps can be taken.
    for _, gene, there, weights in sorted(steps):
        if removed + weights > levels.budget:
            break
        at[gene], removed = there, removed + weights
    return at


def _lower_hull(weights: Sequence[int], errors: Sequence[float]) -> list[int]:
    hull: list[int] = []
    for point in range(len(weights)):
        while len(hull) > 1:
            first, last = hull[-2], hull[-1]
            flat = (errors[last] - errors[first]) * (weights[point] - weights[first])
            if flat < (errors[point] - errors[first]) * (weights[last] - weights[first]):
                break
            hull.pop()
        hull.append(point)
    return hull
