"""Integers in blocks of inputs as ONNX Runtime's MatMulNBits multiplies with them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pruning_core.checkpoint.stored_model import StoredGrid

ROUNDED = 32
"""Inputs that share a scale where weights are rounded here."""
SIZES = (128, 64, 32, 16)
"""Inputs of a block where a variant's own integers are taken."""
BITS = (4, 8)


@dataclass(frozen=True)
class Blocks:
    """weight[:, j] = scale[:, j // size] * (codes[:, j] - zero[:, j // size])."""

    codes: Tensor = field(repr=False)
    """[rows, columns] uint8."""
    scale: Tensor = field(repr=False)
    """[rows, blocks] float32."""
    zero: Tensor = field(repr=False)
    """[rows, blocks] uint8."""
    bits: int
    """4 or 8."""
    size: int
    """Columns of a block; the last one may have fewer."""

    @property
    def weight(self) -> Tensor:
        """[rows, columns] float32."""
        block = torch.arange(self.codes.shape[1]) // self.size
        return self.scale[:, block] * (self.codes.float() - self.zero.float()[:, block])


def rounded(weight: Tensor, bits: int) -> Blocks:
    """`weight` [rows, columns] float32 rounded to the nearest, symmetric: zeros stay exactly zero.

    The weight of the largest size in a block becomes the code 0, whichever sign it has, since 0 is the one that lies
    farthest from the zero point.
    """
    middle, columns = 2 ** (bits - 1), weight.shape[1]
    parts = _padded(weight, ROUNDED).unflatten(1, (-1, ROUNDED))
    extreme = parts.gather(2, parts.abs().argmax(2, keepdim=True))
    scale = -extreme / middle
    # Of numbers so small that their scale is none, all are zeros.
    steps = torch.where(scale == 0, 0.0, parts / scale).round()
    codes = (steps.clamp(-middle, middle - 1) + middle).to(torch.uint8).flatten(1)[:, :columns]
    zero = torch.full(scale.shape[:2], middle, dtype=torch.uint8)
    return Blocks(codes.contiguous(), scale[..., 0], zero, bits, ROUNDED)


def block_size(group: Tensor) -> int | None:
    """The largest block each of which has one grid, of those that fill the columns where some do; None: there is none.

    group: [columns], the grid of each column.
    """
    sizes = [size for size in SIZES if _alike(group, size)]
    return next((size for size in sizes if len(group) % size == 0), sizes[-1] if sizes else None)


def carried(grid: StoredGrid, bits: int) -> Blocks | None:
    """The integers of a variant as they are, in `bits` bits; None where these or blocks cannot hold them."""
    size = block_size(grid.group)
    if size is None or grid.bits > bits:
        return None
    # The middle code is what MatMulNBits subtracts where it is given no zero points.
    shift = 2 ** (bits - 1) - 2 ** (grid.bits - 1)
    block = grid.group.long()[::size]
    zero = (grid.zero[:, block] + shift).to(torch.uint8)
    return Blocks(grid.codes + shift, grid.scale[:, block].float(), zero, bits, size)


def pack_codes(blocks: Blocks) -> Tensor:
    """[rows, blocks, bytes] uint8: 4 bits lie two to a byte, the first one lowest."""
    missing = -blocks.codes.shape[1] % blocks.size
    # What fills the last block adds nothing to a product.
    filling = blocks.zero[:, -1:].expand(-1, missing)
    codes = torch.cat([blocks.codes, filling], 1).unflatten(1, (-1, blocks.size))
    return _pairs(codes) if blocks.bits == 4 else codes


def pack_zeros(blocks: Blocks) -> Tensor:
    """[rows, bytes] uint8, packed as the codes are."""
    return _pairs(_padded(blocks.zero, 2)) if blocks.bits == 4 else blocks.zero


def unpack_codes(values: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` integers of each row of [rows, bytes] uint8."""
    if bits == 4:
        values = torch.stack([values & 15, values >> 4], -1).flatten(1)
    return values[:, :count]


def _pairs(values: Tensor) -> Tensor:
    return values[..., ::2] | values[..., 1::2] << 4


def _padded(values: Tensor, multiple: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, -values.shape[1] % multiple))


def _alike(group: Tensor, size: int) -> bool:
    """Whether the columns of every block have one grid."""
    first = group[::size].repeat_interleave(size)[: len(group)]
    return torch.equal(first, group)
