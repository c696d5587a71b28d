"""Taylor: how much the loss would change, as LLM-Pruner estimates it."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pruning_core.model.coupled_groups import Member, Site
from pruning_core.numerics.sums import summed
from pruning_core.progress import Progress, ignore_progress
from pruning_core.structured.gradients import GradientMoments, gradient_moments
from pruning_core.structured.importance import IMPORTANCES
from pruning_core.structured.scores import Scores
from pruning_core.structured.scoring_inputs import ScoringInputs


@IMPORTANCES.register("taylor")
class Taylor:
    """Taylor expansion of the loss around w (LLM-Pruner, arXiv:2305.11627, eqs. 3 to 5; F is the diagonal Fisher).

    order: of each row or column that a group owns: vectorize |sum of w g|; first: sum of |w g|; second: sum of w^2 F;
        mixed: sum of |w g - w^2 F / 2|.
    grouping: over the matrices of a group: sum, mean, max or prod of their scores, or that of the first (gate or query)
        or the last (down or out) alone.
    samples: calibration windows that are looked at; None: all.
    """

    needs = frozenset({"tokens", "whole"})

    order: Literal["vectorize", "first", "second", "mixed"] = "mixed"
    grouping: Literal["sum", "mean", "max", "prod", "first", "last"] = "sum"
    samples: Annotated[int, Field(ge=1)] | None = None

    def score(self, inputs: ScoringInputs, progress: Progress = ignore_progress) -> Scores:
        windows = inputs.text()[: self.samples]
        moments = gradient_moments(inputs.decoder.model, inputs.sites, windows, progress)
        model = inputs.decoder.model
        values = {site.name: self._grouped(model, site, moments).cpu() for site in inputs.sites}
        return Scores(values, notes={"windows": len(windows)})

    def _grouped(self, model: nn.Module, site: Site, moments: GradientMoments) -> Tensor:
        # A bias belongs to the row of its matrix.
        parts = {
            part: [m for m in site.members if m.part == part] for part in dict.fromkeys(m.part for m in site.members)
        }
        scores = torch.stack([summed(self._of(model, m, moments) for m in members) for members in parts.values()])
        if self.grouping in ("first", "last"):
            return scores[0 if self.grouping == "first" else -1]
        if self.grouping == "max":
            return scores.amax(0)
        over_matrices: dict[str, Callable[..., Tensor]] = {"sum": torch.sum, "mean": torch.mean, "prod": torch.prod}
        return over_matrices[self.grouping](scores, dim=0)

    def _of(self, model: nn.Module, member: Member, moments: GradientMoments) -> Tensor:
        weight = model.get_parameter(member.name).detach().double()
        slope = moments.mean[member.name].double() * weight
        curvature = moments.fisher[member.name].double() * weight.square()
        if self.order == "vectorize":
            vectors = slope.movedim(member.axis, 0).flatten(1).sum(1) if slope.dim() > 1 else slope
            return vectors.abs()[member.index].sum(1)
        terms = {"first": slope.abs(), "second": curvature, "mixed": (slope - curvature / 2).abs()}
        return member.per_group(terms[self.order])
