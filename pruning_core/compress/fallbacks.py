"""Fallbacks: matrices that could not be compressed as their recipe asks, and how many of them a variant may have."""

from collections.abc import Iterable, Mapping
from typing import Any

from pruning_core.compress.factor import DAMPING_CEILING, FACTOR_FAILED
from pruning_core.errors import ComputationError

NAMED = 6
"""So many layers are named before the rest is only counted."""


def fallbacks(ledger: Iterable[Mapping[str, Any]]) -> list[str]:
    """The layers of a ledger whose Hessian could not be factored, in its order.

    Retries that succeeded (raised damping, float64) and dead columns are in the ledger too, but are none: there the
    recipe's method did its work.
    """
    return [str(entry.get("layer", "the matrix")) for entry in ledger if entry["event"] == FACTOR_FAILED]


def check_fallbacks(ledger: Iterable[Mapping[str, Any]], allowed: int) -> None:
    """Fail when a ledger holds more fallbacks than `allowed`.

    Raises:
        ComputationError: names the layers, and says what to do.
    """
    layers = fallbacks(ledger)
    if len(layers) <= allowed:
        return
    names = ", ".join(layers[:NAMED]) + (f" and {len(layers) - NAMED} more" if len(layers) > NAMED else "")
    raise ComputationError(
        f"{names}: the Hessian is not positive definite even in float64 with damping {DAMPING_CEILING:g} of its mean "
        f"diagonal; use more calibration tokens or compensation none, or set max_fallbacks to {len(layers)} or more "
        f"(it is {allowed}) to let such matrices be compressed by the diagonal alone"
    )
