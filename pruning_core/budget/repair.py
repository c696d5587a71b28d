"""How a genome that breaks the budget becomes one that keeps it."""

from collections.abc import Sequence

import numpy as np

from pruning_core.budget.levels import Genome, Levels
from pruning_core.compress.shares import Shares
from pruning_core.errors import InputError


def nearest_genome(levels: Levels, shares: Shares) -> Genome:
    """The levels nearest to `shares`, changed as little as the budget asks for.

    Raises:
        InputError: `shares` counts in another unit than the levels.
    """
    if shares.unit != levels.unit:
        raise InputError(f"shares in {shares.unit} cannot become levels in {levels.unit}")
    errors = [
        [(value - shares.values[matrix.name]) ** 2 / (1 if levels.unit == "n" else matrix.size) for value in row]
        for matrix, row in zip(levels.matrices, levels.shares, strict=True)
    ]
    costs = levels.gene_errors(errors)
    nearest = levels.spread([int(np.argmin(row)) for row in costs])
    return repaired(levels, nearest, errors)


def repaired(
    levels: Levels,
    genome: Genome,
    errors: Sequence[Sequence[float]],
    noise: Sequence[float] | None = None,
) -> Genome:
    """A genome that keeps the budget, made of one that may not, one level at a time.

    Too dense: the gene whose next level costs least error per weight gives. Then, while anything fits, the gene that
    gains most per weight takes. Where unequal sizes leave more slack than allowed, the cheapest two genes move that
    remove it, or else genes return to the uniform level one after another until it fits.

    Args:
        errors: [matrix][level], smaller is better.
        noise: one number per gene added to its error per weight, for diversity.
    """
    costs = levels.gene_errors(errors)
    start, nudge = levels.gene_levels(levels.start), list(noise) if noise is not None else [0.0] * len(levels.genes)
    at = _balanced(levels, levels.gene_levels(genome), costs, nudge)
    at = _fitted(levels, at, costs)
    for gene in range(len(at)):
        if levels.fits(levels.spread(at)):
            break
        at[gene] = start[gene]
        at = _balanced(levels, at, costs, nudge)
    genome = levels.spread(at)
    return genome if levels.fits(genome) else levels.start


def _fitted(levels: Levels, at: list[int], costs: list[list[float]]) -> list[int]:
    """`at` after the cheapest move of at most two genes that brings the slack below its bound; as it was, if none."""
    zeros = levels.gene_zeros
    over = sum(row[level] for row, level in zip(zeros, at, strict=True)) - levels.budget
    if 0 <= over < levels.slack:
        return at
    moves = [(gene, level) for gene, row in enumerate(zeros) for level in range(len(row))]
    gene, level = np.array(moves).T
    change = np.array([zeros[g][to] - zeros[g][at[g]] for g, to in moves])
    price = np.array([costs[g][to] - costs[g][at[g]] for g, to in moves])
    reached = over + change[:, None] + change
    # A gene that stays where it is stands for no second move.
    apart = (gene[:, None] != gene) & (reached >= 0) & (reached < levels.slack)
    if not apart.any():
        return at
    first, second = np.unravel_index(np.where(apart, price[:, None] + price, np.inf).argmin(), apart.shape)
    moved = list(at)
    for move in (first, second):
        moved[gene[move]] = int(level[move])
    return moved


def _balanced(levels: Levels, at: list[int], costs: list[list[float]], nudge: list[float]) -> list[int]:
    """The greedy part of `repaired`, on a level per gene."""
    zeros, at = levels.gene_zeros, list(at)
    over = sum(row[level] for row, level in zip(zeros, at, strict=True)) - levels.budget

    def price(gene: int, way: int) -> float:
        """Error per weight between the level of a gene and the next one up (1) or down (-1)."""
        here, there = at[gene], at[gene] + way
        weights = abs(zeros[gene][there] - zeros[gene][here])
        return way * (costs[gene][there] - costs[gene][here]) / weights + nudge[gene]

    while over < 0:
        able = [gene for gene, level in enumerate(at) if level + 1 < len(zeros[gene])]
        gene = min(able, key=lambda gene: price(gene, 1))
        over += zeros[gene][at[gene] + 1] - zeros[gene][at[gene]]
        at[gene] += 1
    while True:
        able = [g for g, level in enumerate(at) if level and zeros[g][level] - zeros[g][level - 1] <= over]
        if not able:
            return at
        gene = max(able, key=lambda gene: price(gene, -1))
        over -= zeros[gene][at[gene]] - zeros[gene][at[gene] - 1]
        at[gene] -= 1
