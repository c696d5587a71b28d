"""The menu of shares that each matrix may have, made so that an exchange between two matrices keeps the budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pruning_core.budget.counts import bounds_around, zero_counts
from pruning_core.compress.shares import Matrix, Shares
from pruning_core.errors import ComputationError, InputError, required

Genome = tuple[int, ...]
"""A level per matrix, 0 being the level that removes least."""
Granularity = Literal["matrix", "block"]


@dataclass(frozen=True)
class Levels:
    """What may become of each matrix, and what has to be removed in all.

    unit: of `shares`: zeros (weights removed) or n (kept of every m).
    shares: per matrix the value of each level, from fewest to most removed.
    start: the genome of the uniform allocation.
    budget: weights that have to go in all; no genome is denser.
    slack: how many more may go, at most slack - 1. 1 where every exchange keeps the budget to the weight.
    genes: matrices that always move together, by their positions; each matrix on its own when empty.
    """

    matrices: tuple[Matrix, ...]
    unit: Literal["zeros", "n"]
    m: int | None
    shares: tuple[tuple[int, ...], ...]
    start: Genome
    budget: int
    slack: int = 1
    genes: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.genes:
            object.__setattr__(self, "genes", tuple((index,) for index in range(len(self.matrices))))

    @cached_property
    def _zeros(self) -> tuple[tuple[int, ...], ...]:
        """Per matrix the removed weights of each level."""
        if self.unit == "zeros":
            return self.shares
        m = required(self.m, "the m of n:m")
        pairs = zip(self.matrices, self.shares, strict=True)
        return tuple(tuple(matrix.size // m * (m - n) for n in row) for matrix, row in pairs)

    @cached_property
    def gene_zeros(self) -> tuple[tuple[int, ...], ...]:
        """Per gene the removed weights of each level, all its matrices together."""
        return tuple(
            tuple(sum(parts) for parts in zip(*(self._zeros[index] for index in gene), strict=True))
            for gene in self.genes
        )

    def zeros(self, index: int, level: int) -> int:
        """Weights that a matrix loses at a level."""
        return self._zeros[index][level]

    def removed(self, genome: Genome) -> int:
        """Weights removed in all."""
        return sum(row[level] for row, level in zip(self._zeros, genome, strict=True))

    def fits(self, genome: Genome) -> bool:
        """Whether a genome is within the levels, meets the budget and wastes less than the slack."""
        inside = len(genome) == len(self.shares) and all(
            0 <= level < len(row) for row, level in zip(self.shares, genome, strict=True)
        )
        whole = inside and all(len({genome[index] for index in gene}) == 1 for gene in self.genes)
        return whole and 0 <= self.removed(genome) - self.budget < self.slack

    def check(self, genome: Genome) -> Genome:
        """The genome itself.

        Raises:
            ComputationError: it breaks the budget, which no operator may do.
        """
        if not self.fits(genome):
            raise ComputationError(
                f"a genome that removes {self.removed(genome)} weights breaks the budget of {self.budget}; "
                "this is an error of the search"
            )
        return genome

    def shares_of(self, genome: Genome) -> Shares:
        """What a genome means for each matrix."""
        rows = zip(self.matrices, self.shares, genome, strict=True)
        return Shares(self.unit, {matrix.name: row[level] for matrix, row, level in rows})

    def gene_errors(self, errors: Sequence[Sequence[float]]) -> list[list[float]]:
        """Errors per matrix and level added up per gene and level."""
        return [[sum(parts) for parts in zip(*(errors[index] for index in gene), strict=True)] for gene in self.genes]

    def spread(self, gene_levels: Sequence[int]) -> Genome:
        """The genome of one level per gene."""
        genome = [0] * len(self.matrices)
        for gene, level in zip(self.genes, gene_levels, strict=True):
            for index in gene:
                genome[index] = int(level)
        return tuple(genome)

    def gene_levels(self, genome: Genome) -> list[int]:
        """The level of each gene; the inverse of `spread`."""
        return [genome[gene[0]] for gene in self.genes]

    def facts(self) -> dict[str, Any]:
        """The shares of each matrix by name, as JSON."""
        rows = {matrix.name: list(row) for matrix, row in zip(self.matrices, self.shares, strict=True)}
        return {"unit": self.unit, "m": self.m, "budget": self.budget, "shares": rows}


def unstructured_levels(
    matrices: Sequence[Matrix],
    target: float,
    *,
    step: int | None = None,
    count: int = 16,
    low: float | None = None,
    high: float | None = None,
    granularity: Granularity = "matrix",
) -> Levels:
    """Levels around the uniform allocation that lie `step` weights apart in every matrix (EvoPress, arXiv:2410.14649).

    One matrix a level up and another one a level down keep the number of zeros to the weight, whatever their sizes;
    a matrix too small for a step keeps its uniform share. With granularity block all matrices of a block move
    together, each by its part of `step` times the matrices of a block.

    Args:
        target: the fraction to remove in all.
        step: weights between two levels; when absent such that a matrix of mean size has `count` steps from low to
            high.
        low, high: sparsities that no matrix leaves; when absent target - 0.25 and target + 0.2, within 0 and 0.95.

    Raises:
        InputError: bounds that exclude the target, or a step that leaves no matrix a choice.
    """
    low, high = bounds_around(target, low, high)
    total = sum(matrix.size for matrix in matrices)
    genes = _genes(matrices, granularity)
    step = step or max(1, round(total / len(matrices) * (high - low) / count))
    together = round(step * len(matrices) / len(genes))
    base = zero_counts([target] * len(matrices), [matrix.size for matrix in matrices], target)
    rows: list[tuple[int, ...]] = [()] * len(matrices)
    start = [0] * len(matrices)
    for gene in genes:
        sizes = [matrices[index].size for index in gene]
        steps = _whole_parts([together * size / sum(sizes) for size in sizes], together)
        parts = list(zip(gene, sizes, steps, strict=True))
        down = min(int((base[index] - low * size) // weights) for index, size, weights in parts if weights)
        up = min(int((high * size - base[index]) // weights) for index, size, weights in parts if weights)
        down, up = max(down, 0), max(up, 0)
        for index, _, weights in parts:
            rows[index], start[index] = tuple(base[index] + level * weights for level in range(-down, up + 1)), down
    if len(genes) == 1:
        rows, start = [(count,) for count in base], [0] * len(matrices)
    levels = Levels(tuple(matrices), "zeros", None, tuple(rows), tuple(start), sum(base), 1, genes)
    return _with_a_choice(levels, f"steps of {step} weights between the sparsities {low:.4g} and {high:.4g}")


def n_of_m_levels(
    matrices: Sequence[Matrix],
    n: int,
    m: int,
    menu: Sequence[int] | None = None,
    *,
    low: float | None = None,
    high: float | None = None,
    granularity: Granularity = "matrix",
) -> Levels:
    """One level per number of weights kept of every m consecutive inputs; uniform is n everywhere.

    Args:
        menu: the numbers allowed, each 1..m, m meaning dense; all of them when absent. n is always in it.
        low, high: sparsities that no matrix leaves.

    Raises:
        InputError: a menu out of range, bounds that exclude n:m, a width that m does not divide, or a menu on whose
            one side of n there is nothing, so that nothing can be exchanged.
    """
    allowed = sorted({*(menu or range(1, m + 1)), n}, reverse=True)
    if not 1 <= allowed[-1] <= allowed[0] <= m:
        raise InputError(f"a menu for n:{m} holds whole numbers from 1 to {m}, got {list(menu or [n])}")
    ragged = next((matrix for matrix in matrices if matrix.columns % m), None)
    if ragged is not None:
        raise InputError(f"{ragged.name} has {ragged.columns} inputs, which {m} does not divide; take another m")
    low, high = 0.0 if low is None else low, 1.0 if high is None else high
    if not low <= 1 - n / m <= high:
        raise InputError(f"{n}:{m} removes {1 - n / m:.4g}, which is not between the bounds {low} and {high}")
    row = tuple(value for value in allowed if low <= 1 - value / m <= high)
    if n in (row[0], row[-1]):
        raise InputError(
            f"the menu {sorted(row)} has no n {'above' if row[0] == n else 'below'} {n}, so no matrix can give what "
            f"another takes; add one, widen the bounds, or take a larger m such as {2 * m}"
        )
    genes = _genes(matrices, granularity)
    narrow = min(sum(matrices[index].size for index in gene) // m for gene in genes)
    budget = sum(matrix.size // m * (m - n) for matrix in matrices)
    row = row if len(genes) > 1 else (n,)
    shares, start = (row,) * len(matrices), (row.index(n),) * len(matrices)
    levels = Levels(tuple(matrices), "n", m, shares, start, budget, narrow, genes)
    return _with_a_choice(levels, f"the menu {sorted(row)}")


def _with_a_choice(levels: Levels, what: str) -> Levels:
    # A single gene can exchange with none by its nature: its allocation is the uniform one.
    if len(levels.genes) > 1 and sum(len(row) > 1 for row in levels.gene_zeros) < 2:
        raise InputError(
            f"{what} leave fewer than two genes a choice, so nothing can be exchanged; take smaller steps, wider "
            "bounds or granularity matrix"
        )
    return levels


def _genes(matrices: Sequence[Matrix], granularity: Granularity) -> tuple[tuple[int, ...], ...]:
    if granularity == "matrix":
        return tuple((index,) for index in range(len(matrices)))
    blocks: dict[int, list[int]] = {}
    for index, matrix in enumerate(matrices):
        blocks.setdefault(matrix.block, []).append(index)
    return tuple(tuple(members) for members in blocks.values())


def _whole_parts(parts: Sequence[float], total: int) -> list[int]:
    """Whole numbers nearest to `parts` that add up to `total`, the largest remainders rounded up."""
    floors = [int(part + 1e-9) for part in parts]
    order = sorted(range(len(parts)), key=lambda index: (floors[index] - parts[index], index))
    for index in order[: total - sum(floors)]:
        floors[index] += 1
    return floors
