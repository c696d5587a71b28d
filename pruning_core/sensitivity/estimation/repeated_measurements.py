"""From repeated measurements of every matrix to a profile with its errors."""

from typing import Any, Literal

import torch
from torch import Tensor

from pruning_core.compress.shares import Matrix
from pruning_core.errors import ComputationError
from pruning_core.numerics.rank_correlation import rank_correlation
from pruning_core.sensitivity import Profile

Normalise = Literal["mean", "sum"]
"""mean: per weight, so that large and small matrices compare; sum: over all weights of a matrix or block."""


def profile_of(samples: Tensor, matrices: tuple[Matrix, ...], normalise: Normalise, details: dict[str, Any]) -> Profile:
    """The means of independent measurements; negative ones become 0 and are counted.

    Args:
        samples: [matrices, samples] float64, each a sum over the weights of a matrix.
        details: what else to tell of the measurement.

    Raises:
        ComputationError: a value is not finite; it names the matrix.
    """
    for matrix, row in zip(matrices, samples, strict=True):
        if not row.isfinite().all():
            raise ComputationError(f"the sensitivity of {matrix.name} is NaN or inf; check the model in float32")
    blocks = by_block(samples, matrices)
    sizes = torch.tensor([matrix.size for matrix in matrices], dtype=torch.float64)
    totals = by_block(sizes[:, None], matrices)
    if normalise == "mean":
        # A block without matrices is 0 either way.
        samples, blocks = samples / sizes[:, None], blocks / totals.clamp(min=1)
    means, block_means = samples.mean(dim=1), blocks.mean(dim=1)
    errors, block_errors = standard_errors(samples), standard_errors(blocks)
    return Profile(
        matrices=_named(means.clamp(min=0), matrices),
        blocks=block_means.clamp(min=0).tolist(),
        errors=None if errors is None else _named(errors, matrices),
        block_errors=None if block_errors is None else block_errors.tolist(),
        details=details | {"clamped": int((means < 0).sum()), "clamped_blocks": int((block_means < 0).sum())},
    )


def by_block(values: Tensor, matrices: tuple[Matrix, ...]) -> Tensor:
    """[blocks, samples]: the sums of `values` [matrices, samples] over the matrices of each block."""
    block = torch.tensor([matrix.block for matrix in matrices])
    return values.new_zeros(int(block.max()) + 1, values.shape[1]).index_add_(0, block, values)


def standard_errors(samples: Tensor) -> Tensor | None:
    """[matrices] standard error of the mean of each row; None for a single sample, which says nothing of it."""
    count = samples.shape[1]
    return samples.std(dim=1, correction=1) / count**0.5 if count > 1 else None


def half_sample_correlation(samples: Tensor) -> float | None:
    """Rank correlation of the means over every other sample with those over the rest; None where it means nothing.

    Values near 1 say that more samples would leave the order of the matrices as it is.
    """
    if samples.shape[1] < 2:
        return None
    return rank_correlation(samples[:, ::2].mean(dim=1), samples[:, 1::2].mean(dim=1))


def per_block_profile(blocks: list[float], matrices: tuple[Matrix, ...], details: dict[str, Any]) -> Profile:
    """A profile whose matrices share the value of their block."""
    return Profile({matrix.name: blocks[matrix.block] for matrix in matrices}, blocks, details=details)


def _named(values: Tensor, matrices: tuple[Matrix, ...]) -> dict[str, float]:
    return {matrix.name: value for matrix, value in zip(matrices, values.tolist(), strict=True)}
