"""Rank correlation of two lists of values."""

import torch
from torch import Tensor


def rank_correlation(first: Tensor, second: Tensor) -> float | None:
    """Spearman's correlation of two lists [n] of values, equal values sharing their mean rank.

    None where it means nothing: fewer than two values, or a list whose values are all equal.
    """
    places = torch.stack([ranks(first), ranks(second)])
    places -= places.mean(dim=1, keepdim=True)
    lengths = places.norm(dim=1)
    return float(places[0] @ places[1] / lengths.prod()) if bool((lengths > 0).all()) else None


def ranks(values: Tensor) -> Tensor:
    """[n] float64: how many values are smaller, plus half of those that are equal."""
    _, group, count = values.unique(sorted=True, return_inverse=True, return_counts=True)
    smaller = count.cumsum(0) - count
    places: Tensor = (smaller + (count - 1) / 2).double()[group]
    return places
