"""Gradients of a sequence's loss by the weights of chosen matrices, one matrix in memory at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from pruning_core.compress.shares import Matrix
from pruning_core.errors import InputError, required
from pruning_core.evaluation.forward import check_windows
from pruning_core.model.decoder import Decoder


def weights_of(decoder: Decoder, matrices: tuple[Matrix, ...]) -> dict[str, nn.Parameter]:
    """Matrix -> its parameter in the module's own layout, which sums over all weights do not feel."""
    return {matrix.name: decoder.model.get_parameter(f"{matrix.name}.weight") for matrix in matrices}


@contextmanager
def differentiable(weights: dict[str, nn.Parameter]) -> Iterator[None]:
    """Let gradients reach these parameters, and nobody afterwards."""
    before = {name: weight.requires_grad for name, weight in weights.items()}
    for weight in weights.values():
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(before[name])
            weight.grad = None


@contextmanager
def each_gradient(weights: dict[str, nn.Parameter], arrive: Callable[[str, Tensor], None]) -> Iterator[None]:
    """While backward passes run, call arrive(name, gradient) for each parameter and free the gradient.

    A parameter that took no part in a forward (an expert without a token) does not arrive.
    """

    def hook_for(name: str) -> Callable[[Tensor], None]:
        def hook(weight: Tensor) -> None:
            arrive(name, required(weight.grad, f"the gradient of {name}"))
            weight.grad = None

        return hook

    with differentiable(weights):
        handles = [weight.register_post_accumulate_grad_hook(hook_for(name)) for name, weight in weights.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Attention by plain matrix products, which unlike fused kernels can be differentiated twice."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def checked_windows(decoder: Decoder, windows: Tensor, sequences: int | None = None) -> Tensor:
    """The first `sequences` of the windows (all where it is None).

    Raises:
        InputError: windows that the model cannot take, or fewer than asked for.
    """
    if sequences is not None and sequences > len(windows):
        raise InputError(f"sequences is {sequences}, but there are only {len(windows)} calibration windows; lower it")
    check_windows(decoder.model, windows, 1)
    return windows[:sequences]


def prediction_logits(decoder: Decoder, window: Tensor) -> Tensor:
    """[length - 1, vocabulary] float32 logits of the tokens of `window` [length] from the second on."""
    logits: Tensor = decoder.model(input_ids=window[None].to(decoder.device), use_cache=False).logits
    return logits[0, :-1].float()


def sequence_loss(decoder: Decoder, window: Tensor) -> Tensor:
    """Scalar: mean cross entropy of the window's next tokens, in nats."""
    return F.cross_entropy(prediction_logits(decoder, window), window[1:].to(decoder.device))
