"""Hutchinson: the trace of the loss's Hessian by his estimator."""

from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pruning_core.errors import InputError
from pruning_core.progress import Progress, ignore_progress
from pruning_core.sensitivity import SENSITIVITIES, Profile, SensitivityInputs
from pruning_core.sensitivity.estimation.curvature import differences, double_backward, probe
from pruning_core.sensitivity.estimation.gradients import checked_windows, weights_of
from pruning_core.sensitivity.estimation.repeated_measurements import (
    Normalise,
    half_sample_correlation,
    profile_of,
    standard_errors,
)

ROUTES: dict[str, Callable[..., Tensor]] = {"differences": differences, "double_backward": double_backward}


@SENSITIVITIES.register("hutchinson")
class Hutchinson:
    """Mean of v^T H v over probes v of independent signs, H the Hessian of the mean loss by a matrix's weights.

    One probe spans all matrices: each matrix reads its own part of one product H v. Traces may be negative, for a
    trained model is no minimum; they become 0 and are counted. Used for matrices by arXiv:2310.09499.

    form:
        stable: as the other settings say.
        mixgpt_code: the published code of that paper: one probe over all parameters on the first window, differentiated
            twice; the absolute value of the sum. The other weights of the blocks are told in details.others. Only the
            seed can be set.
    route: how H v is computed.
        differences: two gradients at weights shifted by a 1000th of their length; the memory of plain training. Where a
            router chooses experts, a shift that changes its choice adds a jump that says nothing of curvature.
        double_backward: exactly, by differentiating the gradient; keeps the graph of both passes.
        auto: double_backward for mixtures of experts, otherwise differences.
    min_probes, max_probes: probes are drawn until the standard error is below `tolerance` times the trace for a `share`
        of the matrices.
    normalise: mean per weight, or the sum over a matrix.
    sequences: how many of the calibration windows; all where absent.
    seed: of the probes.
    """

    form: Literal["stable", "mixgpt_code"] = "stable"
    route: Literal["auto", "differences", "double_backward"] = "auto"
    min_probes: Annotated[int, Field(ge=1)] = 16
    max_probes: Annotated[int, Field(ge=1)] = 64
    tolerance: Annotated[float, Field(gt=0)] = 0.1
    share: Annotated[float, Field(gt=0, le=1)] = 0.9
    normalise: Normalise = "mean"
    sequences: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0
    needs = frozenset({"model", "tokens"})

    @model_validator(mode="after")
    def _consistent(self) -> "Hutchinson":
        if self.max_probes < self.min_probes:
            raise ValueError(f"max_probes is {self.max_probes}, below min_probes, which is {self.min_probes}")
        # The registry makes a dataclass of it.
        settings = fields(cast("Any", self))
        fixed = [setting.name for setting in settings if getattr(self, setting.name) != setting.default]
        if self.form == "mixgpt_code" and (extra := [name for name in fixed if name not in ("form", "seed")]):
            raise ValueError(f"form mixgpt_code fixes {extra[0]}; remove it")
        return self

    def measure(self, inputs: SensitivityInputs, progress: Progress = ignore_progress) -> Profile:
        """The mean over probes; its errors are those of a sample of probes on the same sequences."""
        if self.form == "mixgpt_code":
            return self._published(inputs, progress)
        traces = self.traces(inputs, progress)
        probes = traces.mean(dim=2)
        details = {
            "route": self._route(inputs),
            "sequences": traces.shape[2],
            "probes": traces.shape[1],
            "settled": _settled(probes, self.tolerance),
            "half_sample_rank_correlation": half_sample_correlation(probes),
            "half_sequences_rank_correlation": half_sample_correlation(traces.mean(dim=1)),
        }
        return profile_of(probes, inputs.matrices, self.normalise, details)

    def traces(self, inputs: SensitivityInputs, progress: Progress = ignore_progress) -> Tensor:
        """[matrices, probes, sequences] float64: v^T H v of each sequence's own H, as many probes as were needed."""
        windows = _ready(inputs, self.sequences)
        weights = weights_of(inputs.model, inputs.matrices)
        along = ROUTES[self._route(inputs)]
        draw = torch.Generator().manual_seed(self.seed)
        samples: list[Tensor] = []
        while len(samples) < self.max_probes and not self._enough(samples):
            samples.append(along(inputs.model, windows, weights, probe(weights, draw)))
            progress(len(samples), self.max_probes)
        if len(samples) < self.max_probes:
            progress(self.max_probes, self.max_probes)
        return torch.stack(samples, dim=1)

    def _route(self, inputs: SensitivityInputs) -> str:
        if self.route != "auto":
            return self.route
        return "double_backward" if inputs.model.has_experts else "differences"

    def _enough(self, samples: list[Tensor]) -> bool:
        if len(samples) < max(self.min_probes, 2):
            return False
        settled = _settled(torch.stack(samples, dim=1).mean(dim=2), self.tolerance)
        return settled is not None and settled >= self.share

    def _published(self, inputs: SensitivityInputs, progress: Progress) -> Profile:
        windows = _ready(inputs, 1)
        weights = dict(inputs.model.model.named_parameters())
        signs = probe(weights, torch.Generator().manual_seed(self.seed))
        values = double_backward(inputs.model, windows, weights, signs)[:, 0].abs()
        progress(1, 1)
        traces = dict(zip(weights, values.tolist(), strict=True))
        samples = torch.tensor(
            [[traces.pop(f"{matrix.name}.weight")] for matrix in inputs.matrices], dtype=torch.float64
        )
        prefix = f"{inputs.model.block_prefix}."
        others = {name: value for name, value in traces.items() if name.startswith(prefix) and name.endswith(".weight")}
        details = {"sequences": 1, "probes": 1, "others": others}
        return profile_of(samples, inputs.matrices, "sum", details)


def _ready(inputs: SensitivityInputs, sequences: int | None) -> Tensor:
    if inputs.model.dtype.itemsize < 4:
        raise InputError("sensitivity hutchinson needs gradients in float32; set compute.dtype to float32")
    return checked_windows(inputs.model, inputs.tokens, sequences)


def _settled(probes: Tensor, tolerance: float) -> float | None:
    """Share of the rows of [matrices, probes] whose standard error is within `tolerance` of their mean."""
    errors = standard_errors(probes)
    if errors is None:
        return None
    return float((errors <= tolerance * probes.mean(dim=1).abs()).double().mean())
