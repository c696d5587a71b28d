"""Mutation and crossover of candidates; every one keeps the budget."""

from collections.abc import Sequence

import numpy as np

from pruning_core.budget.levels import Genome, Levels
from pruning_core.budget.repair import repaired

MOST_EXCHANGES = 3
EQUAL_SIZES = 0.7
"""How often an N:M exchange is between matrices of equal size, which needs no repair."""
NOISE = 0.1
"""Of the Gumbel noise in a repair, relative to the median error per weight."""
TRIES = 20
"""Draws of an exchange before a candidate stays as it is."""


class Operators:
    """Mutation and crossover on the levels of one model.

    Args:
        errors: [matrix][level], what repairs go by.
    """

    def __init__(self, levels: Levels, errors: Sequence[Sequence[float]]) -> None:
        self.levels = levels
        self.errors = errors
        self._zeros = levels.gene_zeros
        self._movable = [gene for gene, row in enumerate(self._zeros) if len(row) > 1]
        prices = [
            abs(cost[level + 1] - cost[level]) / max(row[level + 1] - row[level], 1)
            for row, cost in zip(self._zeros, levels.gene_errors(errors), strict=True)
            for level in range(len(row) - 1)
        ]
        self._scale = NOISE * float(np.median(prices)) if prices else 0.0

    def mutated(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """The genome after min(U{1..3}, U{1..3}) exchanges (EvoPress, arXiv:2410.14649)."""
        count = min(rng.integers(1, MOST_EXCHANGES + 1, size=2))
        return self.exchanged(genome, int(count), rng)

    def exchanged(self, genome: Genome, count: int, rng: np.random.Generator) -> Genome:
        """The genome after `count` exchanges: one gene a level denser, another one sparser."""
        for _ in range(count):
            genome = self._exchange(genome, rng)
        return genome

    def _exchange(self, genome: Genome, rng: np.random.Generator) -> Genome:
        at = self.levels.gene_levels(genome)
        alike = self.levels.unit == "n" and rng.random() < EQUAL_SIZES
        for _ in range(TRIES):
            down, up = (self._movable[index] for index in rng.integers(len(self._movable), size=2))
            if down == up or not at[down] or at[up] + 1 == len(self._zeros[up]):
                continue
            if alike and self._zeros[down] != self._zeros[up]:
                continue
            at[down], at[up] = at[down] - 1, at[up] + 1
            changed = self.levels.spread(at)
            return changed if self.levels.fits(changed) else self._repaired(changed, rng)
        return genome

    def crossed(self, one: Genome, other: Genome, rng: np.random.Generator) -> Genome:
        """The blocks of one parent or the other, each with equal chance, repaired to the budget."""
        blocks = [matrix.block for matrix in self.levels.matrices]
        first = rng.random(max(blocks) + 1) < 0.5
        mixed = tuple(a if first[block] else b for a, b, block in zip(one, other, blocks, strict=True))
        return mixed if self.levels.fits(mixed) else self._repaired(mixed, rng)

    def random(self, rng: np.random.Generator) -> Genome:
        """Uniform after as many exchanges as it takes to forget it."""
        steps = sum(len(self._zeros[gene]) for gene in self._movable)
        return self.exchanged(self.levels.start, steps, rng)

    def _repaired(self, genome: Genome, rng: np.random.Generator) -> Genome:
        noise = self._scale * rng.gumbel(size=len(self.levels.genes))
        return self.levels.check(repaired(self.levels, genome, self.errors, noise.tolist()))
