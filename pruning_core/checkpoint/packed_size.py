"""How many bits a compressed matrix takes with everything counted: values, masks, scales, zero points."""

from collections.abc import Mapping
from typing import Any

SCALE_BITS = 16
"""A stored scale is a half-precision number."""


def packed_bits(layer: Mapping[str, Any], width: float) -> float:
    """Bits of a matrix stored behind a bit mask.

    Args:
        layer: rows, columns, removed; where quantized also bits of a code and groups of a row.
        width: bits of a stored value where the matrix is not quantized.
    """
    size: int = layer["rows"] * layer["columns"]
    mask = size if layer["removed"] else 0
    values: int = size - layer["removed"]
    bits: int | None = layer.get("bits")
    if bits is None:
        return values * width + mask
    grids: int = layer["rows"] * layer["groups"] * (SCALE_BITS + bits)
    return values * bits + mask + grids
