"""What is stored of one compressed matrix: the entries of `layers` in the facts of blocks and variants."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from pruning_core.errors import InputError, required

if TYPE_CHECKING:
    from pruning_core.checkpoint.checkpoint import Checkpoint

BLOCK = re.compile(r"(?:^|\.)(\d+)\.(.+)$")
SCALE_BITS = 16
"""A stored scale is a half-precision number."""


@dataclass(frozen=True)
class LayerFacts:
    """One matrix, `removed` weights of which are gone: zeros behind a mask, or rows and columns that were cut off."""

    name: str
    """Of its module."""
    stored: str
    """The tensor of the weights file that holds it."""
    rows: int
    """Outputs."""
    columns: int
    """Inputs."""
    removed: int
    zeros: int | None = None
    """Stored weights that are zero, the removed ones and those that were zero before."""
    loss: float | None = None
    """0.5 tr(D H D^T); None where nothing was solved, or the model was trained since."""
    bits: int | None = None
    """Of a code, where quantized."""
    groups: int | None = None
    """Grids per row, where quantized."""
    tokens: int | None = None
    """That reached it in calibration, where there was one."""
    dense_rows: int | None = None
    """Before rows were cut off; None of a matrix that kept its size."""
    dense_columns: int | None = None
    """Before columns were cut off."""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "LayerFacts":
        """From an entry of the facts' `layers`; what a newer version may have added is left aside.

        Raises:
            InputError: a fact is missing or of the wrong type.
        """
        values = {field.name: entry.get(field.name, field.default) for field in fields(cls)}
        for field in fields(cls):
            value = values[field.name]
            # JSON does not tell 1.0 from 1.
            if not isinstance(value, field.type if field.type is str else field.type | int):
                fault = "is missing" if value is MISSING else f"is {value!r}"
                raise InputError(f"{field.name} of the layer {entry.get('name', '?')!r} {fault}")
        return cls(**values)

    def facts(self) -> dict[str, Any]:
        """The entry, as manifests hold it: of a matrix that kept its size without the size before."""
        entry = asdict(self).items()
        return {key: value for key, value in entry if value is not None or not key.startswith("dense_")}

    @property
    def code_bits(self) -> int:
        """`bits` of a quantized matrix."""
        return required(self.bits, f"the bits of the codes of {self.name}")

    @property
    def code_groups(self) -> int:
        """`groups` of a quantized matrix."""
        return required(self.groups, f"the number of grids of {self.name}")

    @property
    def size(self) -> int:
        """Weights before anything was removed."""
        return (self.dense_rows or self.rows) * (self.dense_columns or self.columns)

    @property
    def gone(self) -> int:
        """Weights that are zero or no longer there."""
        return self.removed if self.zeros is None else self.zeros + self.size - self.rows * self.columns

    @property
    def sparsity(self) -> float:
        """The share of `gone`."""
        return self.gone / self.size

    @property
    def place(self) -> tuple[int | None, str]:
        """(3, "self_attn.q_proj") for "model.layers.3.self_attn.q_proj"; (None, name) outside the blocks."""
        match = BLOCK.search(self.name)
        return (int(match[1]), match[2]) if match else (None, self.name)

    def packed_bits(self, width: float) -> float:
        """Bits of the matrix behind a bit mask, its scales and zero points counted.

        Args:
            width: bits of a stored value where the matrix is not quantized.
        """
        size = self.rows * self.columns
        mask, values = (size if self.removed else 0), size - self.removed
        if self.bits is None:
            return values * width + mask
        return values * self.bits + mask + self.rows * (self.groups or 0) * (SCALE_BITS + self.bits)


def layers_in(facts: Mapping[str, Any]) -> list[LayerFacts]:
    """The matrices in the facts of a block or a variant."""
    return [LayerFacts.of(entry) for entry in facts["layers"]]


def counted(layers: Sequence[LayerFacts], checkpoint: "Checkpoint", zeros: int) -> dict[str, Any]:
    """The facts of a model that keeps its shapes: what was removed, and what it takes.

    Args:
        layers: its compressed matrices, masked or quantized.
        checkpoint: the model, or its source, which has the same tensors.
        zeros: weights of the whole model that are zero.
    """
    prunable = sum(layer.size for layer in layers)
    removed = sum(layer.removed for layer in layers)
    parameters = checkpoint.parameters
    stored = sum(checkpoint.bytes(name) for name in checkpoint.names())
    width = 8 * stored / parameters
    # Zeros stored densely save nothing: a mask costs one bit a weight and saves the removed values.
    packed = 8 * stored - prunable * width + sum(layer.packed_bits(width) for layer in layers)
    return {
        "sparsity": {"prunable": removed / prunable, "whole_model": zeros / parameters},
        "parameters": {"prunable": prunable, "all": parameters, "removed": removed},
        "layers": [layer.facts() for layer in layers],
        "bits_per_weight": {"stored": width, "bitmask": packed / parameters},
        "size_bytes": {"stored": stored, "bitmask": packed / 8},
    }
