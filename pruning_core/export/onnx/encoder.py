"""The weights of a model as an ONNX export has them: how each lies in the file, and its bytes."""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import required
from pruning_core.export.onnx.blocks import (
    BITS,
    ROUNDED,
    Blocks,
    block_size,
    carried,
    pack_codes,
    pack_zeros,
    rounded,
)
from pruning_core.export.packing.single_file import tensor_facts

ALIGNMENT = 64
"""Of each array in the file."""
TYPES = {"int4": 4, "int8": 8}
TRANSPOSED = ".transposed"
"""Behind the name of a matrix that lies as [inputs, outputs], which is how ONNX multiplies."""
CODES, SCALE, ZERO = ".codes", ".scale", ".zero"
HALVES = (torch.float16, torch.bfloat16)
"""What rows of a table may be stored as; they become float32 when they are looked up."""


class Use(enum.Enum):
    """What a graph does with a weight."""

    PRODUCT = "inputs are multiplied with it"
    LOOKUP = "rows of it are looked up"
    OTHER = "all else"


@dataclass(frozen=True)
class Array:
    """One array of the file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Without what aligns the next one."""
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """How one weight lies in the file.

    bits, size: of integers and of the blocks that share a scale; 0 of float32.
    own: whether the integers are the variant's.
    use: what the graph does with it.
    dtype: of numbers that are no integers of a grid.
    """

    name: str
    stored: str
    shape: tuple[int, ...]
    use: Use
    dtype: torch.dtype = torch.float32
    bits: int = 0
    size: int = 0
    zeros: bool = False
    own: bool = False

    @property
    def arrays(self) -> list[Array]:
        """What it consists of, in order."""
        floats, integers = torch.float32, torch.uint8
        if self.use is not Use.PRODUCT:
            return [Array(self.name, self.dtype, self.shape)]
        rows, columns = self.shape
        if not self.bits:
            return [Array(self.name + TRANSPOSED, floats, (columns, rows))]
        blocks = -(-columns // self.size)
        arrays = [
            Array(self.name + CODES, integers, (rows, blocks, self.size * self.bits // 8)),
            Array(self.name + SCALE, floats, (rows, blocks)),
        ]
        zeros = Array(self.name + ZERO, integers, (rows, -(-blocks * self.bits // 8)))
        return [*arrays, zeros] if self.zeros else arrays


@dataclass(frozen=True)
class OnnxEncoder:
    """Weights as arrays.

    type: of the matrices; None: the integers of the variant, or float32.
    head: of the matrix that gives the logits.
    """

    model: StoredModel
    type: str | None
    head: str | None

    def layout(self, name: str, stored: str, use: Use, is_head: bool) -> Layout:
        """Of a weight, from what is known without reading it.

        name: in the file. stored: of the checkpoint's tensor.
        """
        shape = self.model.checkpoint.shape(stored)
        if use is Use.LOOKUP and self.model.checkpoint.dtype(stored) in HALVES:
            return Layout(name, stored, shape, use, self.model.checkpoint.dtype(stored))
        plain = Layout(name, stored, shape, use)
        kind = self.head if is_head else self.type
        if use is not Use.PRODUCT or kind == "float32":
            return plain
        # A head that is tied to the embedding has no codes of its own either.
        matrix = self.model.whole.get(stored)
        if matrix is not None and matrix.bits is not None:
            _, zero, group = self.model.scales(matrix)
            size = block_size(group)
            bits = next(bits for bits in BITS if matrix.bits <= bits) if kind is None else TYPES[kind]
            if size is not None and matrix.bits <= bits:
                symmetric = bool((zero == 2 ** (matrix.bits - 1)).all())
                return Layout(name, stored, shape, use, bits=bits, size=size, zeros=not symmetric, own=True)
        return plain if kind is None else Layout(name, stored, shape, use, bits=TYPES[kind], size=ROUNDED)

    def encoded(self, layout: Layout) -> tuple[bytes, dict[str, Any]]:
        """(bytes of all arrays, each padded; facts on it as `tensor_facts` tells them)."""
        matrix = self.model.whole.get(layout.stored)
        grid = self.model.quantized_grid(required(matrix, layout.stored)) if layout.own else None
        weight = grid.weight if grid else self.model.load(layout.stored).float()
        packed: Blocks | None = None
        after = weight
        if layout.bits:
            packed = required(carried(grid, layout.bits), layout.name) if grid else rounded(weight, layout.bits)
            after = packed.weight
        parts = _arrays(layout, weight, packed)
        facts = tensor_facts(_kind(layout), layout.own, (weight == 0).numpy(), (after == 0).numpy())
        return b"".join(_padded(parts[array.name].to(array.dtype)) for array in layout.arrays), facts


def _kind(layout: Layout) -> str:
    return f"int{layout.bits}" if layout.bits else str(layout.dtype).removeprefix("torch.")


def _arrays(layout: Layout, weight: Tensor, blocks: Blocks | None) -> Mapping[str, Tensor]:
    if blocks is None:
        return {layout.name + TRANSPOSED: weight.T} if layout.use is Use.PRODUCT else {layout.name: weight}
    return {
        layout.name + CODES: pack_codes(blocks),
        layout.name + SCALE: blocks.scale,
        layout.name + ZERO: pack_zeros(blocks),
    }


def _padded(tensor: Tensor) -> bytes:
    content = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return content + bytes(-len(content) % ALIGNMENT)
