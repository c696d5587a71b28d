"""The knapsack against all combinations."""

import itertools

import numpy as np
import pytest

from pruning_core.budget.knapsack_solver import knapsack
from pruning_core.budget.level_errors import level_errors
from pruning_core.budget.levels import Levels, n_of_m_levels, unstructured_levels
from pruning_core.compress.shares import Matrix
from pruning_core.errors import ComputationError

SHAPES = [(8, 16), (4, 16), (8, 32), (16, 16), (4, 16)]


def small(unit: str) -> Levels:
    matrices = tuple(Matrix(f"m{index}", index, *shape) for index, shape in enumerate(SHAPES))
    if unit == "zeros":
        return unstructured_levels(matrices, 0.6, step=16, low=0.3, high=0.9)
    return n_of_m_levels(matrices, 2, 8, [1, 2, 3, 4, 8])


def best(levels: Levels, errors: list[list[float]]) -> float:
    fitting = (g for g in itertools.product(*(range(len(row)) for row in levels.shares)) if levels.fits(g))
    return min(sum(row[level] for row, level in zip(errors, genome, strict=True)) for genome in fitting)


def cost(genome, errors) -> float:
    return sum(row[level] for row, level in zip(errors, genome, strict=True))


@pytest.mark.parametrize("unit", ["zeros", "n"])
@pytest.mark.parametrize("seed", range(4))
def test_the_choice_has_the_least_error_of_all_that_meet_the_budget(unit: str, seed: int):
    levels, rng = small(unit), np.random.default_rng(seed)
    # Neither monotone nor convex.
    errors = [rng.normal(size=len(row)).tolist() for row in levels.shares]
    found = knapsack(levels, errors)
    assert levels.fits(found)
    assert cost(found, errors) == pytest.approx(best(levels, errors), abs=1e-9)


@pytest.mark.parametrize("unit", ["zeros", "n"])
def test_where_the_table_would_be_too_large_convex_errors_are_solved_as_well(unit: str):
    levels = small(unit)
    errors = [
        [weight * (levels.zeros(index, level) / 64) ** 2 for level in range(len(row))]
        for index, (weight, row) in enumerate(zip((1.0, 3.0, 0.5, 2.0, 4.0), levels.shares, strict=True))
    ]
    found = knapsack(levels, errors, largest=1)
    assert levels.fits(found)
    assert cost(found, errors) <= cost(levels.start, errors)
    if unit == "zeros":
        assert cost(found, errors) == pytest.approx(best(levels, errors))


def test_equal_errors_still_meet_the_budget():
    levels = small("n")
    assert levels.fits(knapsack(levels, [[1.0] * len(row) for row in levels.shares]))


def test_an_error_that_is_no_number_is_told():
    levels = small("zeros")
    with pytest.raises(ComputationError, match="no finite number"):
        knapsack(levels, [[float("nan")] * len(row) for row in levels.shares])


def test_errors_are_what_their_formulas_say():
    facts = [
        {
            "name": "a",
            "weight_loss": 8.0,
            "weight_square": 5.0,
            "levels": [{"loss": 1.0, "change": 0.5}, {"loss": 2.0, "change": 1.5}],
        }
    ]
    assert level_errors(facts, "output") == [[1.0, 2.0]]
    assert level_errors(facts, "relative_output") == [[0.125, 0.25]]
    assert level_errors(facts, "fisher", {"a": 4.0}) == [[1.0, 3.0]]
