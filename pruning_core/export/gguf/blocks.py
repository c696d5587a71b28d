"""Blocks of 32 weights with one float16 scale: the integers of a variant as they are, where a type can hold them."""

import numpy as np
import torch
from torch import Tensor

from pruning_core.checkpoint.stored_model import StoredGrid

BLOCK = 32
RANGES = {"q4_0": (-8, 7), "q5_0": (-16, 15), "q8_0": (-128, 127)}
"""Integers of a type: weight = scale * integer, so that 0 is 0."""


def carried(grid: StoredGrid, kind: str) -> np.ndarray | None:
    """[rows, bytes] uint8 of the blocks that hold (codes - zero) and the scales in float16.

    None where the type cannot: an integer out of its range, a group that ends within a block, or a scale that float16
    does not have.
    """
    rows, columns = grid.codes.shape
    if kind not in RANGES or columns % BLOCK:
        return None
    group = grid.group.long().reshape(-1, BLOCK)
    integers = grid.codes.to(torch.int16) - grid.zero.to(torch.int16)[:, grid.group.long()]
    scale = grid.scale[:, group[:, 0]].half()
    low, high = RANGES[kind]
    within = bool((group == group[:, :1]).all()) and int(integers.min()) >= low and int(integers.max()) <= high
    if not within or not bool((scale.isfinite() & (scale > 0)).all()):
        return None
    blocks = integers.reshape(rows, -1, BLOCK)
    head = scale.numpy().astype("<f2")[..., None].view(np.uint8)
    return np.concatenate([head, *_packed(blocks, kind)], axis=2).reshape(rows, -1)


def _packed(blocks: Tensor, kind: str) -> list[np.ndarray]:
    """What follows the scale: [rows, blocks, bytes] uint8 each."""
    if kind == "q8_0":
        return [blocks.to(torch.int8).numpy().view(np.uint8)]
    values = (blocks - RANGES[kind][0]).to(torch.uint8).numpy()
    # The first half of a block lies in the low four bits of its bytes, the second in the high ones.
    low = values & 15
    nibbles = low[..., : BLOCK // 2] | (low[..., BLOCK // 2 :] << 4)
    if kind == "q4_0":
        return [nibbles]
    return [np.packbits(values >> 4, axis=2, bitorder="little"), nibbles]
