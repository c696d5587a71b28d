"""What must hold after every step; a break fails the run."""

import torch
from torch import Tensor

from pruning_core.errors import ComputationError
from pruning_core.patterns import Pattern


def check_layer(name: str, weight: Tensor, keep: Tensor, pattern: Pattern | None, sparsity: float | None) -> None:
    """Finite weights, zeros wherever keep is False, and the pattern's exact count.

    Raises:
        ComputationError: names the layer and what is broken.
    """
    if not torch.isfinite(weight).all():
        raise ComputationError(f"{name} holds NaN or inf after compression")
    if bool(weight[~keep].any()):
        raise ComputationError(f"{name}: {int(weight[~keep].count_nonzero())} removed weights are not zero")
    fault = pattern.fault(keep, sparsity) if pattern else None
    if fault:
        raise ComputationError(f"{name}: {fault}")
