"""Comparing two evaluations: only of one protocol, and window by window."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from pruning_core.errors import InputError
from pruning_core.evaluation.paired import paired_difference
from pruning_core.evaluation.protocol import Protocol
from pruning_core.text.tokenized.windows import Windows, token_digest

PROTOCOL = Protocol(text="t", tokens="k", length=256, windows=200, special_tokens=False)


def windows_of(tokens: torch.Tensor) -> Windows:
    return Windows(
        tokens,
        {
            "text_digest": "t",
            "token_digest": token_digest(tokens),
            "special_tokens": False,
            "stride": None,
            "bos": False,
        },
    )


def test_the_paired_difference_is_the_mean_of_the_differences_with_its_own_error():
    a = torch.tensor([3.0, 1.0, 5.0, 2.0], dtype=torch.float64)
    b = torch.tensor([2.5, 0.8, 4.0, 1.9], dtype=torch.float64)
    result = paired_difference(a, b)
    each = np.array([0.5, 0.2, 1.0, 0.1])
    assert result.mean == pytest.approx(each.mean())
    assert result.standard_error == pytest.approx(each.std(ddof=1) / 2)
    assert result.windows == 4
    ratio = math.exp(a.numpy().mean()) / math.exp(b.numpy().mean())
    assert result.perplexity_ratio == pytest.approx(ratio)


def test_a_constant_difference_has_no_error_however_much_the_windows_differ():
    losses = torch.tensor([1.0, 100.0, 10.0], dtype=torch.float64)
    result = paired_difference(losses + 0.25, losses)
    assert (result.mean, result.standard_error) == (0.25, 0.0)


def test_a_single_window_has_a_difference_and_no_error():
    result = paired_difference(torch.tensor([2.0]), torch.tensor([1.5]))
    assert (result.mean, result.standard_error) == (0.5, None)


def test_a_ratio_beyond_every_float_is_infinite():
    assert paired_difference(torch.tensor([1000.0]), torch.tensor([0.0])).perplexity_ratio == math.inf


@pytest.mark.parametrize(("a", "b"), [((3,), (4,)), ((0,), (0,)), ((2, 2), (2, 2))])
def test_losses_of_other_windows_are_refused(a, b):
    with pytest.raises(InputError, match="same windows"):
        paired_difference(torch.zeros(a), torch.zeros(b))


@pytest.mark.parametrize(
    "change",
    [
        {"text": "u"},
        {"tokens": "l"},
        {"length": 128},
        {"windows": 100},
        {"special_tokens": True},
        {"dtype": "bfloat16"},
        {"stride": 128},
        {"bos": True},
    ],
)
def test_every_part_of_a_protocol_decides_whether_numbers_are_comparable(change):
    other = dataclasses.replace(PROTOCOL, **change)
    assert other.digest != PROTOCOL.digest
    with pytest.raises(InputError, match=rf"cannot be compared \({next(iter(change))} "):
        PROTOCOL.require_same(other)


def test_equal_protocols_have_equal_digests_and_are_comparable():
    again = dataclasses.replace(PROTOCOL)
    assert again.digest == PROTOCOL.digest
    PROTOCOL.require_same(again)


def test_a_protocol_describes_the_windows_that_it_is_made_of():
    tokens = torch.arange(12).reshape(3, 4)
    protocol = Protocol.of(windows_of(tokens))
    assert (protocol.windows, protocol.length, protocol.text, protocol.special_tokens) == (3, 4, "t", False)
    assert protocol == Protocol.of(windows_of(tokens.clone()))
    assert protocol.digest != Protocol.of(windows_of(tokens + 1)).digest
    # The same ids in other windows are another protocol, although their bytes are the same.
    assert protocol.digest != Protocol.of(windows_of(tokens.reshape(4, 3))).digest
