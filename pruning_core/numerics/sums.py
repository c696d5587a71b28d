"""Sums of tensors."""

from collections.abc import Iterable
from typing import cast

from torch import Tensor


def summed(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of at least one tensor, taken from left to right."""
    # Of nothing Python's sum would be the number 0.
    return cast("Tensor", sum(tensors))
