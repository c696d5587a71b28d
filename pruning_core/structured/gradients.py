"""Gradients of the loss, one window at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning_core.errors import ComputationError
from pruning_core.model.coupled_groups import Site
from pruning_core.numerics.sums import summed
from pruning_core.progress import Progress, ignore_progress


def window_gradients(
    model: nn.Module, windows: Tensor, names: Iterable[str], progress: Progress = ignore_progress
) -> Iterator[dict[str, Tensor]]:
    """For each window parameter -> gradient of its mean loss in nats per token; valid until the next is asked for.

    Args:
        model: whole, in evaluation mode, none of its parameters requiring a gradient; left so.
        windows: [windows, tokens] int64.
        names: of the parameters.

    Raises:
        ComputationError: a loss is not finite.
    """
    parameters = {name: model.get_parameter(name) for name in names}
    device = next(model.parameters()).device
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        for number, window in enumerate(windows):
            tokens = window[None].to(device)
            with torch.enable_grad():
                logits = model(input_ids=tokens, use_cache=False).logits[0, :-1]
                loss = F.cross_entropy(logits.float(), tokens[0, 1:])
            if not torch.isfinite(loss):
                raise ComputationError(f"the loss of calibration window {number} is {float(loss)}")
            gradients = torch.autograd.grad(loss, list(parameters.values()))
            yield {name: own.float() for name, own in zip(parameters, gradients, strict=True)}
            progress(number + 1, len(windows))
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(False)


@dataclass
class GradientMoments:
    """What a first and second order expansion of the loss needs of the gradients of N windows."""

    mean: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """Parameter -> mean gradient, shaped as the parameter, float32."""
    fisher: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """Parameter -> mean square: the diagonal of the empirical Fisher matrix F, float32."""
    gate: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """Site name -> mean over windows of (sum of g w over the group)^2 [groups], that is w^T F w; float64."""


def gradient_moments(
    model: nn.Module, sites: Iterable[Site], windows: Tensor, progress: Progress = ignore_progress
) -> GradientMoments:
    """The moments over all windows; memory holds two numbers per weight of the groups and one window's gradients."""
    sites = tuple(sites)
    names = list(dict.fromkeys(member.name for site in sites for member in site.members))
    moments = GradientMoments()
    share = 1 / len(windows)
    for gradients in window_gradients(model, windows, names, progress):
        for name, gradient in gradients.items():
            if name not in moments.mean:
                moments.mean[name] = torch.zeros_like(gradient)
                moments.fisher[name] = torch.zeros_like(gradient)
            moments.mean[name].add_(gradient, alpha=share)
            moments.fisher[name].addcmul_(gradient, gradient, value=share)
        for site in sites:
            change = gate_slopes(model, site, gradients).square() * share
            moments.gate[site.name] = moments.gate.get(site.name, 0) + change
    return moments


def gate_slopes(model: nn.Module, site: Site, gradients: dict[str, Tensor]) -> Tensor:
    """[groups] float64: sum of g w over what each group owns, the slope of the loss along a gate on the whole group."""
    return summed(
        member.per_group(gradients[member.name].double() * model.get_parameter(member.name).detach().double())
        for member in site.members
    )
