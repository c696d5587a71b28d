"""Masks at one bit per weight."""

import numpy as np
import torch
from torch import Tensor


def pack_mask(keep: Tensor) -> Tensor:
    """[rows, ceil(columns / 8)] uint8: bit j % 8 (lowest first) of byte j // 8 says whether column j survives."""
    return torch.from_numpy(np.packbits(keep.numpy(), axis=1, bitorder="little"))


def unpack_mask(bits: Tensor, columns: int) -> Tensor:
    """[rows, columns] bool: the inverse of `pack_mask`."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=1, count=columns, bitorder="little").view(np.bool_))
