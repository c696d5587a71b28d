"""The allocation of a variant from its params.yaml mapping, checked against the method before a model is loaded."""

from collections.abc import Mapping
from typing import Any

from pruning_core.allocation import ALLOCATIONS, Allocation
from pruning_core.compress.method import Method
from pruning_core.compress.shares import target_of, unit_of
from pruning_core.errors import InputError
from pruning_core.sensitivity import SENSITIVITIES
from pruning_core.text import TEXTS


def build_allocation(spec: Mapping[str, Any], method: Method, where: str = "method") -> Allocation | None:
    """The allocation that the keys of a variant describe; None where there is none.

    Raises:
        InputError: an unknown setting, a pattern that cannot be allocated, or a target out of the allocation's reach.
    """
    if spec.get("allocation") is None:
        return None
    where = f"{where}.allocation"
    allocation = ALLOCATIONS.build(spec["allocation"], where)
    try:
        unit = unit_of(method)
        if not target_of(method):
            raise InputError("nothing is removed at sparsity 0, so there is nothing to allocate; remove the key")
        allocation.check(unit, target_of(method))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    for part in (allocation, *getattr(allocation, "starts", ())):
        if part.sensitivity_spec is not None:
            SENSITIVITIES.build(part.sensitivity_spec, f"{where}.sensitivity")
    text = getattr(allocation, "text", None)
    if text is not None:
        TEXTS.build(text, f"{where}.text")
    return allocation
