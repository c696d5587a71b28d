"""Quantizers: the grid of values that a weight may take."""

from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from torch import Tensor

from pruning_core.registry import Registry


@dataclass(frozen=True)
class Grid:
    """Affine grids of a matrix: value = scale * (code - zero), codes 0..levels - 1; code `zero` is exactly 0."""

    scale: Tensor = field(repr=False)
    """[rows, groups] float32, > 0."""
    zero: Tensor = field(repr=False)
    """[rows, groups] float32 holding integers within the codes."""


class Quantizer(Protocol):
    """A quantizer: a frozen dataclass registered under its name; its fields are its params.yaml keys."""

    name: ClassVar[str]
    bits: int
    group_size: int | None
    order: str
    static_groups: bool

    @property
    def levels(self) -> int:
        """Number of codes."""
        ...

    def fit(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, zero), each [rows] float32, of one grid per row of `values` [rows, n]."""
        ...


QUANTIZERS: Registry[Quantizer] = Registry("quantizer", "pruning_core.quantizers")
