"""Budgets: means to float64's rounding, counts to the weight."""

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_core.budget.counts import bounds_around, budget_of, kept_counts, shifted, zero_counts
from pruning_core.errors import InputError

SIZES = st.lists(st.integers(1, 5000), min_size=1, max_size=12)
FRACTIONS = st.floats(0, 1, allow_nan=False)


@st.composite
def wishes(draw, low: float = -1.0, high: float = 2.0):
    """(sparsities, sizes) of one length."""
    sizes = draw(SIZES)
    value = st.floats(low, high, allow_nan=False)
    return draw(st.lists(value, min_size=len(sizes), max_size=len(sizes))), sizes


@given(wishes(), FRACTIONS, FRACTIONS, FRACTIONS)
def test_shifted_sparsities_have_the_target_as_their_weighted_mean_and_stay_within_bounds(pair, one, two, three):
    raw, sizes = pair
    low, target, high = sorted((one, two, three))
    found = shifted(raw, sizes, target, low, high)
    mean = math.fsum(size * share for size, share in zip(sizes, found, strict=True)) / sum(sizes)
    assert mean == pytest.approx(target, abs=1e-9)
    assert all(low <= share <= high for share in found)
    order = sorted(range(len(raw)), key=lambda index: raw[index])
    assert all(found[a] <= found[b] for a, b in itertools.pairwise(order))


def test_a_shift_is_the_same_for_all_that_no_bound_holds_back():
    found = shifted([0.1, 0.9, 0.3, 0.5], [10, 10, 30, 10], 0.5, 0.2, 0.8)
    # 0.9 is clipped to 0.8; what the others lack is 0.5 * 60 = 8 + 10 (0.1 + mu) + 30 (0.3 + mu) + 10 (0.5 + mu).
    mu = (30 - 8 - 1 - 9 - 5) / 50
    assert found == pytest.approx([0.1 + mu, 0.8, 0.3 + mu, 0.5 + mu])


@pytest.mark.parametrize(("low", "high"), [(0.6, 0.9), (0.1, 0.4), (-0.1, 0.9), (0.2, 1.1)])
def test_bounds_that_exclude_the_target_are_refused(low: float, high: float):
    with pytest.raises(InputError, match=r"mean sparsity of 0\.5; choose low <= sparsity <= high"):
        shifted([0.5, 0.5], [1, 1], 0.5, low, high)


@pytest.mark.parametrize(
    ("target", "bounds"), [(0.5, (0.25, 0.7)), (0.1, (0.0, 0.3)), (0.8, (0.55, 0.95)), (0.97, (0.72, 0.97))]
)
def test_bounds_are_by_default_a_quarter_below_and_a_fifth_above(target: float, bounds: tuple[float, float]):
    assert bounds_around(target) == pytest.approx(bounds)


@given(wishes(), FRACTIONS)
def test_zeros_add_up_to_the_budget_to_the_weight(pair, target: float):
    sparsities, sizes = pair
    counts = zero_counts(sparsities, sizes, target)
    assert sum(counts) == budget_of(sum(sizes), target)
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))


@given(SIZES, FRACTIONS)
def test_zeros_of_sparsities_that_meet_the_target_are_off_by_less_than_one(sizes: list[int], target: float):
    counts = zero_counts([target] * len(sizes), sizes, target)
    assert all(abs(count - target * size) < 1 + 1e-6 for count, size in zip(counts, sizes, strict=True))


@given(st.integers(1, 10**12), st.integers(0, 1000))
def test_a_budget_is_the_nearest_whole_number_of_the_decimal_that_was_written(total: int, thousandths: int):
    exact = Fraction(thousandths, 1000) * total
    whole, rest = divmod(exact, 1)
    assert budget_of(total, thousandths / 1000) == (whole + 1 if rest > Fraction(1, 2) else whole)


@settings(max_examples=200)
@given(st.data(), st.sampled_from([4, 8, 16]), wishes(0.0, 1.0))
def test_kept_counts_are_never_denser_than_the_target_and_waste_less_than_a_level(data, m: int, pair):
    sparsities, sizes = pair
    sizes = [m * size for size in sizes]
    n = data.draw(st.integers(1, m - 1))
    target = 1 - n / m
    counts = kept_counts(sparsities, sizes, m, target)
    assert all(1 <= count <= m for count in counts)
    slack = n * sum(sizes) - sum(size * count for size, count in zip(sizes, counts, strict=True))
    assert slack >= 0
    assert slack < min(sizes) or not reachable(counts, sizes, m, slack)


def reachable(counts: list[int], sizes: list[int], m: int, slack: int) -> bool:
    """Whether one level more of some matrix, paid for with levels of smallest ones, would waste less."""
    smallest = min(sizes)
    spare = sum(count - 1 for count, size in zip(counts, sizes, strict=True) if size == smallest)
    takers = [size for count, size in zip(counts, sizes, strict=True) if count < m]
    return any(math.ceil((size - slack) / smallest) <= spare for size in takers if size > smallest)


def test_matrices_of_equal_size_meet_an_n_of_m_budget_exactly_and_keep_their_order():
    counts = kept_counts([0.9, 0.75, 0.6, 0.75], [64] * 4, 8, 0.75)
    assert sum(counts) == 8 and counts[0] < counts[2] and counts[1] in (2, 3)


def test_an_n_of_m_target_below_one_of_every_m_is_refused():
    with pytest.raises(InputError, match="less than one weight of every 4; choose a larger m"):
        kept_counts([0.9, 0.9], [16, 16], 4, 0.9)
