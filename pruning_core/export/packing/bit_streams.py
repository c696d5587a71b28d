"""Integers of a few bits as one stream in 32-bit words: value k of a row lies at bits k * bits and up, lowest first.

Where the bits do not divide 32, a value may begin in one word and end in the next. It is the layout of both
compressed-tensors' pack-quantized and of GPTQ checkpoints, 3-bit ones included.
"""

import numpy as np
import torch
from torch import Tensor

WORD = 32
PIECE = 2**22
"""Values in work at once: as single bits they take eight times the memory of their codes."""


def words_of(count: int, bits: int) -> int:
    """Words that `count` values take."""
    return -(-count * bits // WORD)


def pack_bits(values: Tensor, bits: int) -> Tensor:
    """[rows, words] int32 of `values` [rows, count] uint8, each below 2^bits; what is left of the last word is 0."""
    rows, count = values.shape
    words = words_of(count, bits)
    out = np.zeros((rows, words), dtype="<i4")
    for piece in _pieces(rows, count):
        part = np.ascontiguousarray(values[piece].numpy())
        single = np.unpackbits(part[..., None], axis=2, count=bits, bitorder="little").reshape(len(part), -1)
        octets = np.packbits(single, axis=1, bitorder="little")
        out[piece].view(np.uint8)[:, : octets.shape[1]] = octets
    return torch.from_numpy(out)


def unpack_bits(words: Tensor, bits: int, count: int) -> Tensor:
    """[rows, count] uint8: the inverse of `pack_bits`."""
    rows = len(words)
    out = np.empty((rows, count), dtype=np.uint8)
    octets = np.ascontiguousarray(words.numpy().astype("<i4", copy=False)).view(np.uint8).reshape(rows, -1)
    for piece in _pieces(rows, count):
        single = np.unpackbits(octets[piece], axis=1, count=count * bits, bitorder="little")
        single = single.reshape(-1, count, bits)
        out[piece] = np.packbits(single, axis=2, bitorder="little")[..., 0]
    return torch.from_numpy(out)


def _pieces(rows: int, count: int) -> list[slice]:
    step = max(1, PIECE // max(count, 1))
    return [slice(start, start + step) for start in range(0, rows, step)]
