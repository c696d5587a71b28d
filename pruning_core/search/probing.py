"""Error of each level of each matrix on its own, measured on the model and not on the matrix."""

from collections.abc import Callable, Sequence

import numpy as np

from pruning_core.budget.levels import Genome, Levels

RADIUS = 2
"""Levels up and down that are measured around a candidate."""
UNKNOWN = 1e9
"""The error of levels beyond those measured: worse than any divergence, and still a number."""


def spread_probes(levels: Levels, count: int) -> list[list[int]]:
    """Per gene the levels to measure around the uniform allocation: `count` from the first to the last."""
    ends = [np.linspace(0, len(row) - 1, min(count, len(row))).round() for row in levels.gene_zeros]
    return [sorted(set(map(int, levels_between))) for levels_between in ends]


def near_probes(levels: Levels, around: Genome) -> list[list[int]]:
    """Per gene the levels to measure around a candidate: RADIUS up and down, where there are as many."""
    pairs = zip(levels.gene_levels(around), levels.gene_zeros, strict=True)
    return [sorted({max(level - RADIUS, 0), min(level + RADIUS, len(row) - 1)}) for level, row in pairs]


def probed_errors(
    levels: Levels,
    fitness: Callable[[list[Genome]], Sequence[float]],
    around: Genome,
    probes: Sequence[Sequence[int]],
) -> list[list[float]]:
    """[matrix][level]: by how much the divergence of `around` changes when this matrix alone goes to that level.

    Between measured levels it is interpolated. Other than errors of outputs, these are in the unit of the search's own
    fitness and know what a matrix does to the whole, at the sparsity where the search takes place; what they miss is
    how matrices act together. Matrices that move together carry their error on the first of them.

    Args:
        fitness: divergences of candidates, all on the same tokens.
        probes: per gene the levels to measure.
    """
    home = levels.gene_levels(around)
    pairs = [(gene, level) for gene, gene_levels in enumerate(probes) for level in gene_levels if level != home[gene]]
    genomes = [levels.spread([*home[:gene], level, *home[gene + 1 :]]) for gene, level in pairs]
    base, *probed = fitness([around, *genomes])
    differences = {(gene, home[gene]): 0.0 for gene in range(len(home))}
    differences |= {pair: value - base for pair, value in zip(pairs, probed, strict=True)}
    errors = [[0.0] * len(row) for row in levels.shares]
    for gene, members in enumerate(levels.genes):
        at = sorted(level for owner, level in differences if owner == gene)
        values = [differences[gene, level] for level in at]
        count = len(levels.shares[members[0]])
        errors[members[0]] = np.interp(range(count), at, values, left=UNKNOWN, right=UNKNOWN).tolist()
    return errors
