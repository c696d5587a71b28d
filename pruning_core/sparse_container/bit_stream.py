"""Integers of 1 to 8 bits each, one directly after another."""

import numpy as np
import torch
from torch import Tensor

from pruning_core.errors import InputError

# Eight integers of any width fill whole bytes, so that pieces of a multiple of eight can be packed on their own.
PIECE = 2**20


def stream_bytes(count: int, bits: int) -> int:
    """Size of `count` integers of `bits` bits."""
    return -(-count * bits // 8)


def packed_stream(values: Tensor, bits: int) -> Tensor:
    """[ceil(n bits / 8)] uint8: bit k of value i is bit p % 8, lowest first, of byte p // 8, where p = i bits + k.

    Args:
        values: [n] uint8, each below 2^bits; bits that fill the last byte are 0.
        bits: 1 to 8.
    """
    numbers = values.numpy()
    stream = np.empty(stream_bytes(len(numbers), bits), dtype=np.uint8)
    for start in range(0, len(numbers), PIECE):
        single = np.unpackbits(numbers[start : start + PIECE, None], axis=1, count=bits, bitorder="little")
        piece = np.packbits(single.reshape(-1), bitorder="little")
        stream[start * bits // 8 :][: len(piece)] = piece
    return torch.from_numpy(stream)


def unpacked_stream(stream: Tensor, count: int, bits: int) -> Tensor:
    """[count] uint8: the inverse of `packed_stream`.

    Args:
        stream: [ceil(count bits / 8)] uint8.

    Raises:
        InputError: bits after the last integer are not 0.
    """
    data = stream.numpy()
    check_unused(data[-1:], count * bits)
    values = np.empty(count, dtype=np.uint8)
    for start in range(0, count, PIECE):
        width = min(PIECE, count - start)
        piece = data[start * bits // 8 :][: stream_bytes(width, bits)]
        single = np.unpackbits(piece, count=width * bits, bitorder="little").reshape(width, bits)
        values[start : start + width] = np.packbits(single, axis=1, bitorder="little")[:, 0]
    return torch.from_numpy(values)


def check_unused(last: np.ndarray, used: int) -> None:
    """Refuse bytes that end `used` bits each, yet have higher bits set beyond."""
    if used % 8 and (last >> (used % 8)).any():
        raise InputError("bits that stand for nothing are set")
