"""Bit mask: one bit per weight, and the weights that are not zero."""

from collections.abc import Mapping
from typing import Literal, Self

import pydantic.dataclasses
import torch
from torch import Tensor

from pruning_core.checkpoint.bit_masks import pack_mask, unpack_mask
from pruning_core.errors import InputError
from pruning_core.registry import STRICT
from pruning_core.sparse_container.bit_stream import check_unused
from pruning_core.sparse_container.entry import Count, Matrix, MatrixEntry, Part


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class Bitmask(MatrixEntry):
    """Unstructured sparsity.

    count: values stored.
    """

    count: Count
    encoding: Literal["bitmask"] = "bitmask"

    @classmethod
    def of(cls, matrix: Matrix) -> Self | None:
        """The entry of a matrix; None where it suits no matrix encoding."""
        if not matrix.suits:
            return None
        return cls(shape=tuple(matrix.weight.shape), dtype=matrix.dtype, count=matrix.count)

    def layout(self) -> dict[str, Part]:
        return {"values": Part(self.torch_dtype, (self.count,)), "mask": mask_part(self.rows, self.columns)}

    def encode(self, matrix: Matrix) -> dict[str, Tensor]:
        values = matrix.bits.masked_select(matrix.nonzero).view(self.torch_dtype)
        return {"values": values, "mask": pack_mask(matrix.nonzero)}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        kept = read_mask(parts["mask"], self.columns, self.count)
        return self.tensor(self.blank().masked_scatter_(kept, self.integers(parts["values"])))


def mask_part(rows: int, columns: int) -> Part:
    """Of a mask at one bit per weight."""
    return Part(torch.uint8, (rows, -(-columns // 8)))


def read_mask(bits: Tensor, columns: int, count: int) -> Tensor:
    """[rows, columns] bool of a mask with `count` bits set.

    Raises:
        InputError: another number of bits is set, or one beyond the last column.
    """
    check_unused(bits.numpy()[:, -1], columns)
    mask = unpack_mask(bits, columns)
    bits_set = int(mask.sum())
    if bits_set != count:
        raise InputError(f"its mask has {bits_set} bits set, for {count} values")
    return mask
