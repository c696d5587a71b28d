"""Fusion weights of fine and coarse estimates in a block."""

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from pruning_core.errors import required
from pruning_core.model.coupled_groups import Site
from pruning_core.numerics.rank_correlation import rank_correlation

Fusion = Literal["probes_and_prior", "probes", "prior", "half", "fine", "coarse"]
FIXED = {"half": (0.5, 0.5), "fine": (1.0, 0.0), "coarse": (0.0, 1.0)}


def fusion_weights(
    fusion: Fusion, evidence: Sequence[float] | None, block: int, depth: int, temperature: float, prior: float
) -> tuple[float, float]:
    """(weight of fine, of coarse), which sum to one; the formula is that of `Hybrid`.

    Args:
        evidence: for fine and for coarse; only a fusion by probes asks for it.
    """
    if fusion in FIXED:
        return FIXED[fusion]
    lead = 0.0
    if "probes" in fusion:
        fine_evidence, coarse_evidence = required(evidence, "the evidence of probes")
        lead = (fine_evidence - coarse_evidence) / temperature
    early = 1 - 2 * block / (depth - 1) if depth > 1 else 0.0
    belief = 2 * prior * early if "prior" in fusion else 0.0
    # The softmax of two numbers depends on their difference alone.
    fine = 1 / (1 + math.exp(-(lead + belief)))
    return fine, 1 - fine


def correlations(rises: Tensor, groups: Sequence[int], fine: Tensor, coarse: Tensor) -> list[float]:
    """Evidence of single groups: rank correlations of fine and coarse [all groups] with the rises of `groups`,
    0 where one of the two does not vary."""
    return [rank_correlation(rises, estimate[list(groups)]) or 0.0 for estimate in (fine, coarse)]


def relative_savings(rises: Tensor) -> list[float]:
    """Evidence of sets: minus the rise in loss of the set that each estimate holds least, over their mean size."""
    scale = float(rises.abs().mean())
    return [-float(rise) / scale if scale > 0 else 0.0 for rise in rises]


def interpolated(sites: Sequence[Site], measured: dict[str, list[float]]) -> dict[str, list[float]]:
    """The evidence of every site, family by family: what was not measured lies between its neighbours, by distance."""
    evidence = {}
    for site in sites:
        family = [other for other in sites if other.family == site.family and other.name in measured]
        below = max((other for other in family if other.block <= site.block), key=lambda other: other.block)
        above = min((other for other in family if other.block >= site.block), key=lambda other: other.block)
        way = (site.block - below.block) / (above.block - below.block) if above is not below else 0.0
        pairs = zip(measured[below.name], measured[above.name], strict=True)
        evidence[site.name] = [(1 - way) * low + way * high for low, high in pairs]
    return evidence
