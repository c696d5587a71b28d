"""Allocations: each against its published rule worked out by hand, and the contract of all of them."""

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_core.allocation import ALLOCATIONS, Request
from pruning_core.allocation.rank_interval import interval_sparsities
from pruning_core.budget.counts import budget_of
from pruning_core.compress.shares import Matrix
from pruning_core.errors import InputError
from pruning_core.sensitivity import Profile

KINDS = {"q": (4096, 4096), "k": (4096, 4096), "v": (4096, 4096), "o": (4096, 4096)}
KINDS |= {"gate": (11008, 4096), "up": (11008, 4096), "down": (4096, 11008)}


def llama(depth: int = 32) -> tuple[Matrix, ...]:
    """The shapes of a Llama of 7 billion parameters."""
    return tuple(Matrix(f"{b}.{name}", b, *shape) for b in range(depth) for name, shape in KINDS.items())


def profile(matrices: tuple[Matrix, ...], values: list[float], **details) -> Profile:
    names = {matrix.name: value for matrix, value in zip(matrices, values, strict=True)}
    blocks = [0.0] * (matrices[-1].block + 1)
    for matrix in matrices:
        blocks[matrix.block] += names[matrix.name]
    return Profile(names, blocks, details=details)


def request(matrices, values=None, *, target=0.6, m=None, **details) -> Request:
    known = profile(matrices, values, **details) if values is not None else None
    return Request(matrices, "n" if m else "zeros", m, target, known)


def traces(count: int, seed: int) -> list[float]:
    """Positive values over several orders of magnitude, as curvatures are."""
    draw = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(count, generator=draw, dtype=torch.float64)).exp().tolist()


def ready(name: str, asked: Request) -> Request:
    """With the levels and the errors that a knapsack needs: quadratic in what is removed."""
    chosen = ALLOCATIONS.build({"name": name})
    if "levels" not in chosen.needs:
        return asked
    levels = chosen.levels_for(asked)
    errors = [[float(levels.zeros(i, j)) ** 2 for j in range(len(row))] for i, row in enumerate(levels.shares)]
    return Request(asked.matrices, asked.unit, asked.m, asked.target, asked.profile, levels, errors)


SIMPLE = [name for name in ALLOCATIONS.names() if name != "evolutionary"]


@pytest.mark.parametrize("name", SIMPLE)
@pytest.mark.parametrize("target", [0.5, 0.7, 0.801])
@pytest.mark.parametrize("kind", ["spread", "equal", "zero", "one block"])
def test_every_allocation_meets_an_unstructured_budget_to_the_weight(name: str, target: float, kind: str):
    matrices = llama(1 if kind == "one block" else 4)
    values = {"equal": [3.5], "zero": [0.0]}.get(kind)
    values = values * len(matrices) if values else traces(len(matrices), 0)
    asked = ready(name, request(matrices, values, target=target))
    shares = ALLOCATIONS.build({"name": name}).shares(asked)
    assert shares.removed(matrices) == budget_of(sum(asked.sizes), target)
    assert all(0 <= shares.values[one.name] <= one.size for one in matrices)


@pytest.mark.parametrize("name", SIMPLE)
@pytest.mark.parametrize(("n", "m"), [(2, 8), (4, 16), (2, 4), (2, 3)])
def test_every_allocation_meets_an_n_of_m_budget_within_a_level(name: str, n: int, m: int):
    matrices = tuple(Matrix(one.name, one.block, one.rows, 48 * m) for one in llama(4))
    asked = ready(name, request(matrices, traces(len(matrices), 1), target=1 - n / m, m=m))
    shares = ALLOCATIONS.build({"name": name}).shares(asked)
    excess = shares.removed(matrices, m) - sum(asked.sizes) * (m - n) // m
    assert 0 <= excess < min(asked.sizes) // m
    assert all(1 <= kept <= m for kept in shares.values.values())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 0.9), st.sampled_from(["by_sensitivity", "rank_interval", "owl"]))
def test_what_is_more_sensitive_never_loses_more(seed: int, target: float, name: str):
    matrices = tuple(Matrix(f"{i}", i, 64, 100) for i in range(12))
    values = traces(12, seed)
    chosen = ALLOCATIONS.build({"name": name} | ({"half_width": 0.05} if name == "rank_interval" else {}))
    shares = chosen.shares(request(matrices, values, target=target))
    order = sorted(range(12), key=lambda index: values[index])
    removed = [shares.values[str(index)] for index in order]
    # Equal sparsities may differ by the weight that makes the budget exact.
    assert all(left >= right - 1 for left, right in itertools.pairwise(removed))


def test_uniform_differs_from_the_target_by_less_than_a_weight():
    matrices = (Matrix("a", 0, 3, 7), Matrix("b", 0, 5, 11), Matrix("c", 1, 2, 2))
    shares = ALLOCATIONS.build({"name": "uniform"}).shares(request(matrices, target=0.3))
    assert all(abs(shares.values[one.name] - 0.3 * one.size) < 1 for one in matrices)
    assert shares.removed(matrices) == 24


def test_owl_is_the_published_formula():
    """density = z - mean(z) + (1 - S), z scaled to [0, 2 lambda]: by hand for shares of 1, 3 and 2 percent."""
    matrices = tuple(Matrix(f"{block}.{i}", block, 100, 100) for block in range(3) for i in range(2))
    asked = Request(matrices, "zeros", None, 0.7, Profile({}, [1.0, 3.0, 2.0]))
    shares = ALLOCATIONS.build({"name": "owl", "strength": 0.08}).shares(asked)
    # z = 0, 0.16, 0.08 with mean 0.08, so sparsities 0.78, 0.62 and 0.70.
    found = [shares.values[f"{block}.{i}"] for block in range(3) for i in range(2)]
    assert found == [7800, 7800, 6200, 6200, 7000, 7000]


def test_owl_weights_the_mean_by_the_size_of_blocks():
    matrices = (Matrix("a", 0, 100, 100), Matrix("b", 1, 100, 300))
    asked = Request(matrices, "zeros", None, 0.5, Profile({}, [4.0, 1.0]))
    shares = ALLOCATIONS.build({"name": "owl", "strength": 0.1}).shares(asked)
    # z = 0.2 and 0; weighted mean 0.05.
    assert shares.values == {"a": round(10000 * (0.5 - 0.2 + 0.05)), "b": round(30000 * (0.5 + 0.05))}


def test_by_sensitivity_spreads_the_logarithm_evenly_over_twice_the_strength():
    matrices = tuple(Matrix(name, i, 100, 100) for i, name in enumerate("abc"))
    chosen = ALLOCATIONS.build({"name": "by_sensitivity", "strength": 0.1})
    shares = chosen.shares(request(matrices, [1e-6, 1e-2, 1e-4], target=0.5))
    assert shares.values == {"a": 6000, "b": 4000, "c": 5000}
    linear = ALLOCATIONS.build({"name": "by_sensitivity", "strength": 0.1, "scale": "linear"})
    # Values 0, 1 and 1/2 as before; then 0.6, 0.4 and 0.6, whose mean is a thirtieth too high.
    assert linear.shares(request(matrices, [1.0, 3.0, 2.0], target=0.5)).values == {"a": 6000, "b": 4000, "c": 5000}
    found = linear.shares(request(matrices, [1.0, 9.0, 1.0], target=0.5)).values
    assert [found[name] for name in "abc"] == pytest.approx([17000 / 3, 11000 / 3, 17000 / 3], abs=1)


def test_by_sensitivity_respects_its_bounds():
    matrices = tuple(Matrix(str(i), i, 100, 100) for i in range(4))
    chosen = ALLOCATIONS.build({"name": "by_sensitivity", "strength": 0.5, "low": 0.55, "high": 0.75})
    shares = chosen.shares(request(matrices, [1.0, 10.0, 100.0, 1000.0], target=0.6))
    assert min(shares.values.values()) == 5500 and max(shares.values.values()) <= 7500
    assert sum(shares.values.values()) == 24000


def test_blocks_as_the_unit_give_all_their_matrices_one_sparsity():
    matrices = llama(4)
    chosen = ALLOCATIONS.build({"name": "by_sensitivity", "granularity": "block"})
    shares = chosen.shares(request(matrices, traces(len(matrices), 3)))
    for block in range(4):
        own = [shares.values[one.name] / one.size for one in matrices if one.block == block]
        assert max(own) - min(own) < 1e-6


def test_a_sensitivity_of_zero_counts_as_the_smallest_positive_one():
    matrices = tuple(Matrix(str(i), i, 100, 100) for i in range(3))
    found = ALLOCATIONS.build({"name": "by_sensitivity"}).shares(request(matrices, [0.0, 1e-8, 1e-3]))
    assert found.values["0"] == found.values["1"] > found.values["2"]


def published_densities(values: list[float], pool: list[float], p: float, alpha: float) -> list[float]:
    """Algorithm 1 as the code has it, term by term."""
    ordered = sorted(pool)
    left = 1 - p - alpha
    right = 2 * (1 - p) - left
    ranks = [sum(other < value for other in ordered) for value in values]
    return [left + rank * (right - left) / (len(ordered) - 1) for rank in ranks]


def test_ranks_are_those_of_algorithm_1():
    values = [5.0, 1.0, 3.0, 3.0, 9.0]
    pool = [*values, 0.5, 4.0]
    expected = [1 - density for density in published_densities(values, pool, 0.6, 0.1)]
    assert interval_sparsities(values, pool, 0.6, 0.1) == pytest.approx(expected)
    assert interval_sparsities([9.0, 0.5], pool, 0.6, 0.1) == pytest.approx([0.5, 0.7])


def test_the_published_form_misses_the_budget_where_norms_rank_low_and_large_matrices_high():
    """About 2 points per 0.1 of half width, whatever the target: norms' small traces push every linear layer up."""
    matrices = llama()
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(len(matrices), generator=draw).exp().tolist()
    # Traces are sums over weights, so larger matrices have larger ones.
    values = [one.size * factor for one, factor in zip(matrices, noise, strict=True)]
    norms = {f"{block}.norm{i}.weight": 1e-3 * (block + i + 1) for block in range(32) for i in range(2)}
    missed = {}
    for target, half_width in ((0.5, 0.1), (0.5, 0.2), (0.7, 0.1)):
        asked = request(matrices, values, target=target, others=norms)
        chosen = ALLOCATIONS.build({"name": "rank_interval", "form": "mixgpt_code", "half_width": half_width})
        assert not chosen.meets_budget
        real = chosen.shares(asked).removed(matrices) / sum(asked.sizes)
        pool = [*values, *norms.values()]
        density = published_densities(values, pool, target, half_width)
        expected = 1 - math.fsum(s * d for s, d in zip(asked.sizes, density, strict=True)) / sum(asked.sizes)
        assert real == pytest.approx(expected, abs=1e-6)
        missed[target, half_width] = target - real
        corrected = ALLOCATIONS.build({"name": "rank_interval", "half_width": half_width}).shares(asked)
        assert corrected.removed(matrices) == budget_of(sum(asked.sizes), target)
    assert 0.01 < missed[0.5, 0.1] < 0.05
    assert missed[0.5, 0.2] == pytest.approx(2 * missed[0.5, 0.1], rel=1e-3)
    assert missed[0.7, 0.1] == pytest.approx(missed[0.5, 0.1], rel=1e-3)


def test_the_corrected_form_is_the_published_one_but_for_one_shift():
    matrices = llama(4)
    values = traces(len(matrices), 5)
    asked = request(matrices, values, target=0.5)
    shares = ALLOCATIONS.build({"name": "rank_interval"}).shares(asked)
    expected = [1 - density for density in published_densities(values, values, 0.5, 0.1)]
    shifts = [shares.values[m.name] / m.size - s for m, s in zip(matrices, expected, strict=True)]
    assert max(shifts) - min(shifts) < 1e-6 and abs(statistics.mean(shifts)) > 1e-4


def test_a_knapsack_prunes_most_where_it_costs_least():
    matrices = tuple(Matrix(name, i, 100, 100) for i, name in enumerate("abc"))
    chosen = ALLOCATIONS.build({"name": "knapsack"})
    plain = request(matrices, target=0.5)
    levels = chosen.levels_for(plain)
    costs = {"a": 1.0, "b": 100.0, "c": 10.0}
    errors = [[costs[one.name] * zeros for zeros in row] for one, row in zip(matrices, levels.shares, strict=True)]
    shares = chosen.shares(Request(matrices, "zeros", None, 0.5, None, levels, errors))
    assert shares.values["a"] == levels.shares[0][-1] and shares.values["b"] < shares.values["c"] < shares.values["a"]
    assert sum(shares.values.values()) == 15000


@pytest.mark.parametrize(
    ("spec", "unit", "target", "sentence"),
    [
        ({"name": "by_sensitivity", "low": 0.7}, "zeros", 0.5, "no allocation between 0.7 and 0.7"),
        ({"name": "by_sensitivity", "high": 0.4}, "zeros", 0.5, "choose low <= sparsity <= high"),
        ({"name": "rank_interval", "half_width": 0.3}, "zeros", 0.8, "take a smaller one"),
        ({"name": "rank_interval", "form": "mixgpt_code"}, "n", 0.5, "set form to corrected"),
        ({"name": "knapsack", "high": 0.4}, "zeros", 0.5, "choose low <= sparsity <= high"),
        ({"name": "knapsack", "menu": [1, 2]}, "zeros", 0.5, "menu is of n"),
        ({"name": "knapsack", "step": 5}, "n", 0.5, "set menu"),
    ],
)
def test_settings_that_no_model_can_meet_are_told_beforehand(spec, unit, target, sentence):
    with pytest.raises(InputError, match=sentence):
        ALLOCATIONS.build(spec).check(unit, target)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            {"name": "knapsack", "errors": "output", "sensitivity": {"name": "fisher"}},
            "changes nothing with errors output",
        ),
        ({"name": "knapsack", "errors": "fisher", "sensitivity": {"name": "outliers"}}, "a curvature per weight"),
        ({"name": "knapsack", "errors": "fisher", "sensitivity": {"name": "fisher", "normalise": "sum"}}, "mean"),
        ({"name": "owl", "strength": 0}, "strength"),
        ({"name": "by_sensitivity", "sensitivity": "fisher"}, "sensitivity"),
        ({"name": "by_sensitivty"}, "did you mean 'by_sensitivity'"),
    ],
)
def test_settings_that_contradict_themselves_are_told(spec, sentence):
    with pytest.raises(InputError, match=sentence):
        ALLOCATIONS.build(spec)


def test_a_sensitivity_that_is_not_finite_is_told():
    matrices = llama(1)
    values = [1.0] * 6 + [float("nan")]
    with pytest.raises(InputError, match="not finite"):
        ALLOCATIONS.build({"name": "by_sensitivity"}).shares(request(matrices, values))
