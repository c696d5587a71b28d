"""What the grids of a quantized variant have in common: the part of it that a format's config has to tell."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pruning_core.checkpoint.layer_facts import LayerFacts
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import InputError

DENSE_FORMATS = "--format safetensors, which stores any variant"


@dataclass(frozen=True)
class Grids:
    """The grids of all quantized matrices."""

    bits: int
    """Of a code."""
    group_size: int | None
    """Columns that share a grid; None where a whole row does."""
    symmetric: bool
    """Whether every zero point is the middle code."""
    lowest_zero: int
    """The smallest zero point of all."""
    permuted: LayerFacts | None
    """A matrix whose groups are not runs of columns, if there is one."""
    uneven: LayerFacts | None
    """A matrix whose last group is smaller than the others, if there is one."""


def group_size_of(group: Tensor) -> int:
    """Columns of the largest group of `group` [columns]: the last group alone may have fewer."""
    return int(torch.bincount(group.long()).max())


def are_runs(group: Tensor) -> bool:
    """Whether each group is a run of neighbouring columns, in ascending order."""
    return torch.equal(group.long(), torch.arange(len(group)) // group_size_of(group))


def whole_matrices(model: StoredModel, name: str) -> dict[str, LayerFacts]:
    """Stored name -> quantized matrix, after checking that the format `name` can hold each as it lies in the file.

    Raises:
        InputError: a variant without codes, or matrices that are no tensors [rows, columns] of their own.
    """
    if not model.quantized:
        raise InputError(
            f"--format {name} writes the integers of a quantized variant, and this one has none; add a quantizer to its"
            " recipe, or use --format safetensors"
        )
    whole = {stored: matrix for stored, matrix in model.whole.items() if matrix.bits is not None}
    missing = {matrix.name for matrix in model.quantized} - {matrix.name for matrix in whole.values()}
    if missing:
        raise InputError(
            f"--format {name} needs every matrix as a tensor [outputs, inputs] of its own, unlike {min(missing)} of"
            f" this model (fused experts, or weights stored transposed); use {DENSE_FORMATS}"
        )
    return whole


def common_grids(model: StoredModel, name: str) -> Grids:
    """What all quantized matrices share; their codes are not read.

    Raises:
        InputError: as `whole_matrices`, or matrices with different bits or group sizes.
    """
    matrices = whole_matrices(model, name).values()
    bits, sizes = {matrix.code_bits for matrix in matrices}, set[int | None]()
    symmetric, lowest, permuted, uneven = True, 255, None, None
    for matrix in matrices:
        _, zero, group = model.scales(matrix)
        size = group_size_of(group)
        symmetric = symmetric and bool((zero == 2 ** (matrix.code_bits - 1)).all())
        lowest = min(lowest, int(zero.min()))
        permuted = permuted or (None if are_runs(group) else matrix)
        uneven = uneven or (matrix if matrix.columns % size else None)
        sizes.add(None if zero.shape[1] == 1 else size)
    # A row that is as long as a group is both.
    whole_rows = {matrix.columns for matrix in matrices if matrix.groups == 1}
    if len(sizes) > 1 and whole_rows <= sizes:
        sizes -= {None}
    if len(bits) > 1 or len(sizes) > 1:
        raise InputError(
            f"--format {name} tells bits and group size once for all matrices, and this variant has"
            f" {_listed(bits)} bits and groups of {_listed({size or 'a whole row' for size in sizes})}; give all"
            f" matrices one group size that divides their inputs, or use {DENSE_FORMATS}"
        )
    return Grids(bits.pop(), sizes.pop(), symmetric, lowest, permuted, uneven)


def _listed(values: Iterable[object]) -> str:
    return " and ".join(sorted(map(str, values)))
