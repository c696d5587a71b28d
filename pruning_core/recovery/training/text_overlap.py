"""Contamination check: whether training text overlaps with evaluation text."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pruning_core.errors import InputError

SPAN = 64
"""Tokens in a row that two texts share by copying only: about fifty words."""
MOST_DROPPED = 0.05
"""Of the windows: more is no chance."""
Rule = Literal["refuse", "drop"]
_FACTOR = np.uint64(6364136223846793005)


def shared_windows(windows: Tensor, held_out: Tensor, span: int = SPAN) -> Tensor:
    """[windows] bool: which of `windows` share `span` tokens in a row with any window of `held_out`.

    Args:
        windows, held_out: [count, length] int64 token ids of one tokenizer.
        span: at most; windows that are shorter are compared as a whole.
    """
    span = min(span, windows.shape[1], held_out.shape[1])
    ours, theirs = windows.numpy(), held_out.numpy()
    hashes, held_out_hashes = _hashes(ours, span), _hashes(theirs, span)
    shared = torch.zeros(len(windows), dtype=torch.bool)
    candidates = np.isin(hashes, held_out_hashes)
    places: dict[int, list[tuple[int, int]]] = {}
    for row, column in zip(*np.nonzero(np.isin(held_out_hashes, hashes[candidates])), strict=True):
        places.setdefault(int(held_out_hashes[row, column]), []).append((row, column))
    for row, column in zip(*np.nonzero(candidates), strict=True):
        # Equal hashes are not yet equal tokens.
        if not shared[row]:
            span_tokens = ours[row, column : column + span]
            there = places[int(hashes[row, column])]
            shared[row] = any(np.array_equal(span_tokens, theirs[i, j : j + span]) for i, j in there)
    return shared


def without_overlap(windows: Tensor, held_out: Tensor, what: str, rule: Rule) -> tuple[Tensor, int]:
    """The `windows` that share no `SPAN` tokens in a row with the evaluation windows, and how many others there were.

    Args:
        what: names the windows in messages.
        rule: refuse any overlap, or drop the windows that have it: sources copy from each other here and there.

    Raises:
        InputError: overlap where it is refused, a window that is one of `held_out` as a whole, or more than
            `MOST_DROPPED` of the windows.
    """
    shared = shared_windows(windows, held_out)
    count = int(shared.sum())
    whole = shared_windows(windows[shared], held_out, windows.shape[1]) if count else shared
    if count and (rule == "refuse" or bool(whole.any()) or count > MOST_DROPPED * len(windows)):
        raise InputError(
            f"{count} of {len(windows)} {what} windows (the first is {int(shared.nonzero()[0])}) share text with the "
            f"evaluation windows, {SPAN} tokens in a row or more, so the result would look better than it is; "
            f"take other text{_advice(rule)}"
        )
    return windows[~shared], count


def _advice(rule: Rule) -> str:
    return ", or set overlap to drop where few windows share a little" if rule == "refuse" else ""


def _hashes(tokens: np.ndarray, span: int) -> np.ndarray:
    """[windows, length - span + 1] uint64: a polynomial hash of the `span` tokens that begin at each place."""
    width = tokens.shape[1] - span + 1
    hashes = np.zeros((len(tokens), width), dtype=np.uint64)
    for offset in range(span):
        hashes = hashes * _FACTOR + tokens[:, offset : offset + width].astype(np.uint64) + np.uint64(1)
    return hashes
