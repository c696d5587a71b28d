"""How many bits a compressed matrix takes when nothing is counted out: values, masks, scales, zero points."""

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
    size = layer["rows"] * layer["columns"]
    mask = size if layer["removed"] else 0
    values = size - layer["removed"]
    if layer.get("bits") is None:
        return values * width + mask
    grids = layer["rows"] * layer["groups"] * (SCALE_BITS + layer["bits"])
    return values * layer["bits"] + mask + grids
