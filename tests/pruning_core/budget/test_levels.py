"""Levels, repairs and operators: whatever is done to a genome, the budget holds."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_core.budget.levels import Levels, n_of_m_levels, unstructured_levels
from pruning_core.budget.repair import nearest_genome, repaired
from pruning_core.compress.shares import Matrix, Shares
from pruning_core.errors import ComputationError, InputError
from pruning_core.search.operators import Operators

UNEVEN = [(192, 192), (96, 192), (512, 192), (192, 512), (64, 64)]


def matrices(shapes: list[tuple[int, int]], per_block: int = 3) -> tuple[Matrix, ...]:
    return tuple(Matrix(f"m{i}", i // per_block, *shape) for i, shape in enumerate(shapes))


def flat_errors(levels: Levels) -> list[list[float]]:
    return [[float(level * (index + 1)) for level in range(len(row))] for index, row in enumerate(levels.shares)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(8, 64), st.integers(8, 64)), min_size=3, max_size=9),
    st.floats(0.3, 0.9),
    st.integers(2, 40),
)
def test_an_exchange_of_levels_keeps_the_zeros_to_the_weight(shapes, target, count):
    found = matrices(shapes)
    try:
        levels = unstructured_levels(found, target, count=count)
    except InputError:
        return
    total = sum(rows * columns for rows, columns in shapes)
    exact = Fraction(repr(target)) * total
    assert abs(levels.removed(levels.start) - exact) <= Fraction(1, 2)
    differences = {b - a for row in levels.shares for a, b in pairwise(row)}
    assert len(differences) == 1
    for index, row in enumerate(levels.shares):
        assert row[0] >= 0 and row[-1] <= found[index].size


def test_levels_stay_between_the_bounds():
    levels = unstructured_levels(matrices(UNEVEN), 0.7, count=12, low=0.5, high=0.8)
    for matrix, row in zip(levels.matrices, levels.shares, strict=True):
        assert row[0] / matrix.size >= 0.5 and row[-1] / matrix.size <= 0.8


@pytest.mark.parametrize("granularity", ["matrix", "block"])
def test_ten_thousand_random_operators_keep_an_unstructured_budget_to_the_weight(granularity: str):
    levels = unstructured_levels(matrices(UNEVEN * 6, 5), 0.7, granularity=granularity)
    total = sum(matrix.size for matrix in levels.matrices)
    hold(levels, lambda removed: removed == round(0.7 * total), 10_000)


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["matrix", "block"])
@pytest.mark.parametrize(("n", "m", "menu"), [(2, 8, [1, 2, 3, 4, 8]), (4, 16, None), (5, 8, [2, 5, 6])])
def test_ten_thousand_random_operators_never_make_n_of_m_denser_and_waste_less_than_a_level(n, m, menu, granularity):
    levels = n_of_m_levels(matrices(UNEVEN * 6, 5), n, m, menu, granularity=granularity)
    per_block = [sum(matrix.size for matrix in levels.matrices if matrix.block == block) for block in range(6)]
    smallest = min(per_block) if granularity == "block" else 64 * 64
    budget = sum(matrix.size for matrix in levels.matrices) * (m - n) // m
    hold(levels, lambda removed: 0 <= removed - budget < smallest // m, 3500)


def hold(levels: Levels, holds, times: int) -> None:
    """Apply `times` operators, chosen at random, each to what an earlier one made."""
    operators, rng = Operators(levels, flat_errors(levels)), np.random.default_rng(0)
    pool = [levels.start]
    for _ in range(times):
        one, other = (pool[int(index)] for index in rng.integers(len(pool), size=2))
        made = operators.mutated(one, rng) if rng.random() < 0.6 else operators.crossed(one, other, rng)
        assert holds(removed_by_hand(levels, made))
        pool = [*pool[-30:], made]
    assert len(set(pool)) > 10


def removed_by_hand(levels: Levels, genome: tuple[int, ...]) -> int:
    total = 0
    for matrix, row, level in zip(levels.matrices, levels.shares, genome, strict=True):
        kept = row[level]
        total += kept if levels.unit == "zeros" else matrix.rows * matrix.columns * (levels.m - kept) // levels.m
    return total


def test_matrices_of_a_block_move_together_with_granularity_block():
    levels = unstructured_levels(matrices(UNEVEN * 3, 5), 0.6, granularity="block")
    changed = Operators(levels, flat_errors(levels)).random(np.random.default_rng(1))
    assert changed != levels.start
    for block in range(3):
        assert len({changed[index] for index in range(5 * block, 5 * block + 5)}) == 1
    sizes = [sum(row[changed[index]] for index, row in enumerate(levels.shares) if index // 5 == b) for b in range(3)]
    assert len(set(sizes)) > 1 and sum(sizes) == levels.budget


def test_the_genome_nearest_to_shares_is_exact_where_they_are_levels():
    levels = unstructured_levels(matrices(UNEVEN * 2), 0.7)
    wanted = Operators(levels, flat_errors(levels)).random(np.random.default_rng(2))
    assert nearest_genome(levels, levels.shares_of(wanted)) == wanted


def test_the_genome_nearest_to_shares_keeps_the_budget_where_they_lie_between_levels():
    levels = unstructured_levels(matrices(UNEVEN * 2), 0.7)
    rng = np.random.default_rng(3)
    shares = Shares("zeros", {m.name: int(m.size * x) for m, x in zip(levels.matrices, rng.random(10), strict=True)})
    assert levels.fits(nearest_genome(levels, shares))


def test_a_repair_takes_where_it_costs_least_and_gives_where_it_gains_most():
    levels = n_of_m_levels(matrices([(8, 16)] * 4), 2, 8)
    errors = [[(8 - n) * weight for n in row] for weight, row in zip((1, 5, 2, 9), levels.shares, strict=True)]
    kept = (levels.shares[0].index(4), *levels.start[1:])
    found = repaired(levels, kept, errors)
    assert [row[level] for row, level in zip(levels.shares, found, strict=True)] == [2, 2, 2, 2]
    # One level too sparse everywhere: the matrix that gains most takes all that there is.
    sparse = repaired(levels, tuple(level + 1 for level in levels.start), errors)
    assert [row[level] for row, level in zip(levels.shares, sparse, strict=True)] == [1, 1, 1, 5]


def test_a_broken_genome_is_told():
    levels = unstructured_levels(matrices(UNEVEN), 0.5)
    with pytest.raises(ComputationError, match="breaks the budget"):
        levels.check((levels.start[0] + 1, *levels.start[1:]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 0.7, "low": 0.8}, "mean sparsity of 0.7"),
        ({"target": 0.7, "high": 0.6}, "mean sparsity of 0.7"),
        ({"target": 0.7, "step": 10**7}, "nothing can be exchanged"),
    ],
)
def test_bounds_and_steps_that_leave_no_choice_are_told(settings, message):
    with pytest.raises(InputError, match=message):
        unstructured_levels(matrices(UNEVEN), **settings)


@pytest.mark.parametrize(
    ("n", "m", "more", "message"),
    [
        (1, 4, {}, "no n below 1"),
        (2, 8, {"menu": [2, 4]}, "no n below 2"),
        (2, 8, {"menu": [0, 2, 4]}, "from 1 to 8"),
        (2, 8, {"low": 0.8}, "0.75"),
        (2, 6, {}, "does not divide"),
    ],
)
def test_menus_that_cannot_reach_the_budget_by_exchange_are_told(n, m, more, message):
    with pytest.raises(InputError, match=message):
        n_of_m_levels(matrices(UNEVEN), n, m, **more)


def test_one_block_that_moves_as_a_whole_has_the_uniform_allocation_alone():
    levels = unstructured_levels(matrices(UNEVEN, 5), 0.7, granularity="block")
    assert [len(row) for row in levels.shares] == [1] * 5 and levels.fits(levels.start)
