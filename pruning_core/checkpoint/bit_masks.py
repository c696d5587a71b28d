"""Masks at one bit per weight."""

import numpy as np
import torch
from torch import Tensor


def packed(keep: Tensor) -> Tensor:
    """[rows, ceil(columns / 8)] uint8: bit j % 8 (lowest first) of byte j // 8 says whether column j survives."""
    return torch.from_numpy(np.packbits(keep.numpy(), axis=1, bitorder="little"))


def unpacked(bits: Tensor, columns: int) -> Tensor:
    """[rows, columns] bool: the inverse of `packed`."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=1, count=columns, bitorder="little").view(np.bool_))
