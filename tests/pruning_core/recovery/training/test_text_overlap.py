"""Text in common between training and evaluation, beside a search through all places."""

import pytest
import torch

from pruning_core.errors import InputError
from pruning_core.recovery.training.text_overlap import shared_windows, without_overlap


def drawn(rows: int, length: int, seed: int, vocabulary: int = 1000) -> torch.Tensor:
    return torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


def searched(windows: torch.Tensor, held_out: torch.Tensor, span: int) -> list[bool]:
    there = {tuple(row[at : at + span]) for row in held_out.tolist() for at in range(len(row) - span + 1)}
    return [any(tuple(row[at : at + span]) in there for at in range(len(row) - span + 1)) for row in windows.tolist()]


@pytest.mark.parametrize("span", [1, 2, 3, 5])
def test_every_shared_span_is_found_and_no_other(span: int):
    # Four tokens only, so that many short spans are shared by chance.
    windows, held_out = drawn(60, 9, 0, 4), drawn(3, 7, 1, 4)
    expected = searched(windows, held_out, span)
    assert shared_windows(windows, held_out, span).tolist() == expected
    assert span < 3 or {True, False} == set(expected)


def test_sixty_four_tokens_in_a_row_count_at_any_offset_and_sixty_three_do_not():
    windows, held_out = drawn(5, 100, 0), drawn(4, 90, 1)
    windows[1, 3:67] = held_out[2, 20:84]
    windows[3, 30:93] = held_out[0, 10:73]
    assert shared_windows(windows, held_out).tolist() == [False, True, False, False, False]


def test_windows_shorter_than_the_span_are_compared_as_wholes():
    windows, held_out = drawn(4, 16, 0), drawn(4, 40, 1)
    windows[2] = held_out[1, 5:21]
    assert shared_windows(windows, held_out).tolist() == [False, False, True, False]


def test_overlap_is_refused_or_dropped_as_asked():
    windows, held_out = drawn(100, 100, 0), drawn(4, 100, 1)
    windows[7, :70] = held_out[2, 30:]
    with pytest.raises(
        InputError, match=r"1 of 100 training windows \(the first is 7\) share text.*set overlap to drop"
    ):
        without_overlap(windows, held_out, "training", "refuse")
    left, dropped = without_overlap(windows, held_out, "training", "drop")
    assert dropped == 1 and torch.equal(left, torch.cat([windows[:7], windows[8:]]))
    untouched, none = without_overlap(left, held_out, "training", "refuse")
    assert none == 0 and torch.equal(untouched, left)


def test_a_whole_evaluation_window_or_many_parts_are_refused_even_where_some_may_be_dropped():
    windows, held_out = drawn(100, 100, 0), drawn(10, 100, 1)
    copied = windows.clone()
    copied[7] = held_out[2]
    with pytest.raises(InputError, match="share text with the evaluation windows"):
        without_overlap(copied, held_out, "training", "drop")
    windows[:6, :70] = held_out[:6, 30:]
    with pytest.raises(InputError, match="6 of 100"):
        without_overlap(windows, held_out, "training", "drop")
