"""How alike two orders are."""

import torch
from torch import Tensor


def rank_correlation(first: Tensor, second: Tensor) -> float | None:
    """Spearman's correlation of two lists [n] of values, equal values sharing their mean rank.

    None where it means nothing: fewer than two values, or a list whose values are all equal.
    """
    ranks = torch.stack([_ranks(first), _ranks(second)])
    ranks -= ranks.mean(dim=1, keepdim=True)
    lengths = ranks.norm(dim=1)
    return float(ranks[0] @ ranks[1] / lengths.prod()) if bool((lengths > 0).all()) else None


def _ranks(values: Tensor) -> Tensor:
    """[n] float64: how many values are smaller, plus half of those that are equal."""
    _, group, count = values.unique(sorted=True, return_inverse=True, return_counts=True)
    smaller = count.cumsum(0) - count
    return (smaller + (count - 1) / 2).double()[group]
