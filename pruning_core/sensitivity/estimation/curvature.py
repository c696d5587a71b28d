"""v^T H v of each sequence's loss, H the Hessian by the weights of each matrix on its own part of v."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pruning_core.errors import InputError
from pruning_core.model.decoder import Decoder
from pruning_core.numerics.sums import summed
from pruning_core.sensitivity.estimation.gradients import (
    differentiable,
    each_gradient,
    eager_attention,
    sequence_loss,
)

STEP = 1e-3
"""Length of the shift of the weights relative to their own length: rounding and curvature errors are both small."""


def probe(weights: Mapping[str, Tensor], draw: torch.Generator) -> dict[str, Tensor]:
    """Independent signs: name -> int8 of +1 and -1 in the weight's shape, on its device.

    Of all distributions these give Hutchinson's estimator the least variance: H's diagonal adds none.
    """
    return {
        name: (2 * torch.randint(0, 2, weight.shape, generator=draw, dtype=torch.int8) - 1).to(weight.device)
        for name, weight in weights.items()
    }


def differences(
    decoder: Decoder, windows: Tensor, weights: dict[str, nn.Parameter], signs: dict[str, Tensor]
) -> Tensor:
    """[matrices, windows] float64 from central differences of gradients, H v = (g(w + e v) - g(w - e v)) / 2e.

    Args:
        windows: [windows, length] int64.
        weights: name -> parameter; its values are shifted and put back bit by bit.
        signs: name -> v.
    """
    dense = {name: weight.data for name, weight in weights.items()}
    length = sum(float(torch.linalg.vector_norm(value, dtype=torch.float64)) ** 2 for value in dense.values()) ** 0.5
    # v holds signs alone, so its length is the root of its size.
    step = STEP * length / sum(value.numel() for value in dense.values()) ** 0.5 or STEP
    try:
        along = []
        for side in (step, -step):
            for name, weight in weights.items():
                weight.data = dense[name] + side * signs[name]
            along.append(_gradients_along(decoder, windows, weights, signs))
    finally:
        for name, weight in weights.items():
            weight.data = dense[name]
    return (along[0] - along[1]) / (2 * step)


def _gradients_along(
    decoder: Decoder, windows: Tensor, weights: dict[str, nn.Parameter], signs: dict[str, Tensor]
) -> Tensor:
    """[matrices, windows] float64: v^T g."""
    row = {name: position for position, name in enumerate(weights)}
    products = torch.zeros(len(weights), len(windows), dtype=torch.float64, device=decoder.device)
    for position, window in enumerate(windows):

        def arrive(name: str, gradient: Tensor, column: int = position) -> None:
            # What counts is the small difference of two such sums.
            products[row[name], column] = (gradient.double() * signs[name]).sum()

        with torch.enable_grad(), each_gradient(weights, arrive):
            sequence_loss(decoder, window).backward()
    return products.cpu()


def double_backward(
    decoder: Decoder, windows: Tensor, weights: dict[str, nn.Parameter], signs: dict[str, Tensor]
) -> Tensor:
    """[matrices, windows] float64, by differentiating v^T g; the arguments are those of `differences`.

    Raises:
        InputError: the model holds an operation without a second derivative.
    """
    columns = []
    for window in windows:
        with torch.enable_grad(), eager_attention(decoder.model), differentiable(weights):
            try:
                products = _products(sequence_loss(decoder, window), weights, signs)
            except (NotImplementedError, RuntimeError) as error:
                if "not implemented" not in str(error):
                    raise
                raise InputError(
                    f"this model cannot be differentiated twice ({str(error).splitlines()[0]}); use route: differences"
                ) from error
        columns.append(torch.stack([(products[name].double() * signs[name]).sum() for name in weights]))
    return torch.stack(columns, dim=1).cpu()


def _products(loss: Tensor, weights: dict[str, nn.Parameter], signs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name -> H v; zero where a weight takes no part."""
    values = list(weights.values())
    gradients = torch.autograd.grad(loss, values, create_graph=True, materialize_grads=True)
    along = summed((gradient * signs[name]).sum() for name, gradient in zip(weights, gradients, strict=True))
    products = torch.autograd.grad(along, values, materialize_grads=True)
    return dict(zip(weights, products, strict=True))
