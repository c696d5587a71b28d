"""Exact-count selection against a literal sort."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.numerics.selection import rounded_count, smallest

SCORES = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 12)), elements=st.integers(0, 4).map(float)
)


@given(SCORES, st.data())
def test_the_selection_is_the_head_of_a_stable_sort_of_each_row(score, data):
    count = data.draw(st.integers(0, score.shape[1]))
    chosen = smallest(torch.from_numpy(score), count)
    for row, marks in zip(score, chosen, strict=True):
        head = sorted(range(len(row)), key=lambda index: (row[index], index))[:count]
        assert sorted(marks.nonzero().flatten().tolist()) == sorted(head)


@given(SCORES, st.data())
def test_rows_may_have_counts_of_their_own(score, data):
    counts = data.draw(st.lists(st.integers(0, score.shape[1]), min_size=len(score), max_size=len(score)))
    chosen = smallest(torch.from_numpy(score), torch.tensor(counts))
    assert chosen.sum(dim=1).tolist() == counts


def test_a_count_beyond_the_row_is_refused():
    with pytest.raises(ValueError, match="cannot select 4 of 3"):
        smallest(torch.zeros(2, 3), 4)


@pytest.mark.parametrize(("size", "fraction", "count"), [(100, 0.29, 29), (100, 0.5, 50), (5, 0.5, 2), (7, 0.0, 0)])
def test_binary_fractions_lose_no_weight_and_halves_go_down(size, fraction, count):
    assert rounded_count(size, fraction) == count


@pytest.mark.parametrize("size", [2**24, 5 * 10**8 + 3, 2**31 + 7])
def test_a_whole_number_of_a_large_matrix_comes_back_from_its_fraction(size):
    for count in (1, size // 3, size // 2, size - 1):
        assert rounded_count(size, count / size) == count
