"""What must hold after every step; a break fails the run."""

from torch import Tensor

from pruning_core.errors import ComputationError
from pruning_core.numerics.finite import all_finite
from pruning_core.patterns import Pattern


def check_layer(name: str, weight: Tensor, keep: Tensor, pattern: Pattern | None, sparsity: float | None) -> None:
    """Finite weights, zeros wherever keep is False, and the pattern's exact count.

    Raises:
        ComputationError: names the layer and what is broken.
    """
    if not all_finite(weight):
        raise ComputationError(f"{name} holds NaN or inf after compression")
    left = (weight != 0) & ~keep
    if bool(left.any()):
        raise ComputationError(f"{name}: {int(left.sum())} removed weights are not zero")
    fault = pattern.fault(keep, sparsity) if pattern else None
    if fault:
        raise ComputationError(f"{name}: {fault}")
