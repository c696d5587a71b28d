"""How far fewer Hutchinson probes agree with all of them: on the order of the matrices, and on what goes where."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from pruning_core.allocation import ALLOCATIONS, Request
from pruning_core.compress.shares import Matrix
from pruning_core.numerics.rank_correlation import rank_correlation
from pruning_core.sensitivity.estimation.repeated_measurements import profile_of


def agreements(traces: Tensor, matrices: tuple[Matrix, ...], target: float) -> list[dict[str, Any]]:
    """A row of JSON for 1, 2, 4, ... probes up to all.

    Every figure is the mean over the disjoint groups of so many probes that there are: the rank correlation with all
    probes and of one group with the next (None where there is one group), the mean absolute difference of a matrix's
    sparsity from that by all probes (moved) and from the target (away), and the share of the matrices whose trace came
    out negative.

    Args:
        traces: [matrices, probes, sequences] float64.
        target: sparsity of the allocation.
    """
    probes = traces.mean(dim=2)
    everything = values_of(probes, matrices)
    decided = sparsities(probes, matrices, target)
    rows = []
    for count in doublings_up_to(probes.shape[1]):
        groups = probes[:, : probes.shape[1] // count * count].split(count, dim=1)
        values = [values_of(group, matrices) for group in groups]
        given = [sparsities(group, matrices, target) for group in groups]
        rows.append(
            {
                "probes": count,
                "groups": len(groups),
                "against_all": _mean([rank_correlation(one_group, everything) for one_group in values]),
                "between": _mean([rank_correlation(*pair) for pair in zip(values[::2], values[1::2], strict=False)]),
                "moved": fmean(float((one_group - decided).abs().mean()) for one_group in given),
                "away": fmean(float((one_group - target).abs().mean()) for one_group in given),
                "negative": fmean(float((group.mean(dim=1) < 0).double().mean()) for group in groups),
            }
        )
    return rows


def between_sequences(traces: Tensor, matrices: tuple[Matrix, ...]) -> float | None:
    """Rank correlation of the traces by every other sequence with those by the rest, all probes in both."""
    if traces.shape[2] < 2:
        return None
    halves = (values_of(traces[:, :, start::2].mean(dim=2), matrices) for start in (0, 1))
    return rank_correlation(*halves)


def values_of(probes: Tensor, matrices: tuple[Matrix, ...], normalise: str = "mean") -> Tensor:
    """[matrices] sensitivities, as the profile of these probes [matrices, probes] has them."""
    sensitivities = profile_of(probes, matrices, normalise, {}).matrices
    return torch.tensor([sensitivities[matrix.name] for matrix in matrices], dtype=torch.float64)


def sparsities(probes: Tensor, matrices: tuple[Matrix, ...], target: float) -> Tensor:
    """[matrices] sparsities of the allocation by the profile of these probes."""
    request = Request(matrices, "zeros", None, target, profile_of(probes, matrices, "mean", {}))
    shares = ALLOCATIONS.build({"name": "by_sensitivity"}).shares(request)
    return torch.tensor([shares.values[matrix.name] / matrix.size for matrix in matrices], dtype=torch.float64)


def doublings_up_to(most: int) -> list[int]:
    """1, 2, 4, ... and `most` itself."""
    return [*(2**power for power in range((most - 1).bit_length())), most] if most > 1 else [1]


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are not None; None where all are."""
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None
