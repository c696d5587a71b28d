"""What must hold after every step; a break fails the run."""

import torch
from torch import Tensor

from pruning_core.errors import ComputationError
from pruning_core.patterns import Pattern
from pruning_core.selection import rounded_count


def check_layer(name: str, weight: Tensor, keep: Tensor, pattern: Pattern, sparsity: float | None) -> None:
    """Finite weights, zeros wherever keep is False, and the pattern's exact count.

    Raises:
        ComputationError: names the layer and what is broken.
    """
    if not torch.isfinite(weight).all():
        raise ComputationError(f"{name} holds NaN or inf after compression")
    if bool(weight[~keep].any()):
        raise ComputationError(f"{name}: {int(weight[~keep].count_nonzero())} removed weights are not zero")
    removed = int((~keep).sum())
    if pattern.takes_sparsity:
        exact = rounded_count(keep.numel(), sparsity)
        floor = pattern.rounding == "floor" and pattern.scope == "row"
        expected = keep.shape[0] * int(keep.shape[1] * sparsity + 1e-9) if floor else exact
        if removed != expected:
            raise ComputationError(f"{name}: {removed} weights were removed where the budget is {expected}")
    elif bool((keep.reshape(-1, pattern.m).sum(dim=1) != pattern.n).any()):
        raise ComputationError(f"{name} breaks {pattern.n}:{pattern.m}")
