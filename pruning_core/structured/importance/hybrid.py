"""Hybrid: fine and coarse estimates of the same loss, fused by how well each tells measured losses (HyWIA)."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pruning_core.model.coupled_groups import Site
from pruning_core.numerics.rank_correlation import ranks
from pruning_core.numerics.sums import summed
from pruning_core.progress import Progress, ignore_progress
from pruning_core.structured.fusion import (
    Fusion,
    correlations,
    fusion_weights,
    interpolated,
    relative_savings,
)
from pruning_core.structured.gradients import GradientMoments, gate_slopes, gradient_moments
from pruning_core.structured.importance import IMPORTANCES
from pruning_core.structured.probes import measured_losses, probe_groups
from pruning_core.structured.scores import Scores, mean_one
from pruning_core.structured.scoring_inputs import ScoringInputs


@IMPORTANCES.register("hybrid")
class Hybrid:
    """Fine- and coarse-grained Taylor estimates, fused block by block (after HyWIA, arXiv:2403.10799).

    With g the mean gradient, F the empirical Fisher matrix and w_G what group G owns, biases included:

        fine    f_G = sum over i in G of |g_i w_i - F_ii w_i^2 / 2|
        coarse  c_G = |sum over i in G of g_i w_i - w_G^T F w_G / 2|

    The paper fuses them by an attention whose formula it leaves open; this one is ours: a query of measured evidence
    e_m for estimate m, block by block and family by family. The weights are softmax(e_m / temperature + prior * p_m),
    with p_fine falling from 1 in the first block to -1 in the last and p_coarse = -p_fine.

    evidence: single: `probes` groups, evenly spread over the ranks of (f + c) / 2, are switched off one at a time, and
        e_m is the rank correlation of the rises in loss with estimate m. sets: the `probe_share` of the groups that
        estimate m holds least is switched off together, and e_m is minus the rise in loss over the mean of the two:
        what is cheap one by one need not be cheap together.
    fusion: what the weights follow: probes_and_prior as above, probes or prior alone; half, fine or coarse fixed.
    normalise: mean divides each estimate by its mean over the groups of a block, rank takes ranks / groups.
    combine: the weighted sum of the two, or the weighted geometric mean.
    probes: groups measured per block and family; a family with fewer groups measures all.
    probe_tokens: on how many tokens a rise in loss is measured, in whole windows.
    probe_share: share of the groups in a set; at least one group.
    every: measure every so many-th block and interpolate the evidence between.
    temperature: of the softmax.
    prior: weight of the prior.
    samples: calibration windows whose gradients are taken; None: all.
    """

    needs = frozenset({"tokens", "whole"})

    fusion: Fusion = "probes_and_prior"
    normalise: Literal["mean", "rank"] = "mean"
    combine: Literal["sum", "geometric"] = "sum"
    probes: Annotated[int, Field(ge=3)] = 24
    evidence: Literal["sets", "single"] = "sets"
    probe_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    probe_tokens: Annotated[int, Field(ge=2)] = 4096
    every: Annotated[int, Field(ge=1)] = 1
    temperature: Annotated[float, Field(gt=0)] = 0.1
    prior: Annotated[float, Field(ge=0)] = 0.25
    samples: Annotated[int, Field(ge=1)] | None = None

    def score(self, inputs: ScoringInputs, progress: Progress = ignore_progress) -> Scores:
        model = inputs.decoder.model
        moments = gradient_moments(model, inputs.sites, inputs.text()[: self.samples], progress)
        fine = {site.name: fine_estimate(model, site, moments).cpu() for site in inputs.sites}
        coarse = {site.name: coarse_estimate(model, site, moments).cpu() for site in inputs.sites}
        evidence = self._evidence(inputs, fine, coarse, progress)
        depth = len(inputs.decoder)
        values, notes = {}, {}
        for site in inputs.sites:
            measured = evidence.get(site.name)
            alpha = fusion_weights(self.fusion, measured, site.block, depth, self.temperature, self.prior)
            values[site.name] = self._fused(fine[site.name], coarse[site.name], alpha)
            notes[site.name] = {"fine": alpha[0], "coarse": alpha[1], "evidence": measured}
        return Scores(values, notes={"fusion": notes})

    def _fused(self, fine: Tensor, coarse: Tensor, alpha: tuple[float, float]) -> Tensor:
        one, two = (self._normalised(values) for values in (fine, coarse))
        both = alpha[0] * one + alpha[1] * two if self.combine == "sum" else one ** alpha[0] * two ** alpha[1]
        # Gives the unit of a loss back, by which blocks and families compare.
        return both * fine.mean() ** alpha[0] * coarse.mean() ** alpha[1]

    def _normalised(self, values: Tensor) -> Tensor:
        return mean_one(values) if self.normalise == "mean" else (1 + ranks(values)) / len(values)

    def _evidence(
        self, inputs: ScoringInputs, fine: dict[str, Tensor], coarse: dict[str, Tensor], progress: Progress
    ) -> dict[str, list[float]]:
        """Site name -> evidence for fine and for coarse; empty where the fusion asks for none."""
        if "probes" not in self.fusion:
            return {}
        last = len(inputs.decoder) - 1
        measured = [site for site in inputs.sites if site.block % self.every == 0 or site.block == last]
        probed = {site.name: self._sets(fine[site.name], coarse[site.name]) for site in measured}
        rises = measured_losses(inputs, probed, self.probe_tokens, progress)
        evidence = {}
        for name, sets in probed.items():
            groups = [group for (group, *_) in sets]
            single = self.evidence == "single"
            evidence[name] = (
                correlations(rises[name], groups, fine[name], coarse[name]) if single else relative_savings(rises[name])
            )
        return interpolated(inputs.sites, evidence)

    def _sets(self, fine: Tensor, coarse: Tensor) -> list[list[int]]:
        if self.evidence == "single":
            return [[group] for group in probe_groups(mean_one(fine) + mean_one(coarse), self.probes)]
        count = max(1, round(self.probe_share * len(fine)))
        return [estimate.argsort(stable=True)[:count].tolist() for estimate in (fine, coarse)]


def fine_estimate(model: nn.Module, site: Site, moments: GradientMoments) -> Tensor:
    """[groups] float64: f_G of `Hybrid`."""
    return summed(
        member.per_group(
            (moments.mean[member.name].double() * weight - moments.fisher[member.name] * weight.square() / 2).abs()
        )
        for member in site.members
        for weight in [model.get_parameter(member.name).detach().double()]
    )


def coarse_estimate(model: nn.Module, site: Site, moments: GradientMoments) -> Tensor:
    """[groups] float64: c_G of `Hybrid`, with all products of weights inside a group."""
    return torch.abs(gate_slopes(model, site, moments.mean) - moments.gate[site.name] / 2)
