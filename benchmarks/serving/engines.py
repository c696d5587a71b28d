"""What may run compressed weights faster on a processor: each engine loads a model directory and times it."""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_core.evaluation.serving import Load
from pruning_core.evaluation.transformers_speed import timed_batches
from pruning_core.source import load_model

Runs = dict[int, tuple[list[float], list[float]]]
SPARSE = 0.3
"""Zeros of a matrix that is worth a sparse layout."""


def bfloat16(path: Path, load: Load, trust_remote_code: bool) -> Runs:
    """All weights and activations in bfloat16."""
    return timed_batches(load_model(path, "bfloat16", trust_remote_code=trust_remote_code), load)


def int8(path: Path, load: Load, trust_remote_code: bool) -> Runs:
    """PyTorch's dynamic quantization: int8 weights of linear layers, activations rounded to int8 as they come."""
    model = load_model(path, trust_remote_code=trust_remote_code)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=True)
    return timed_batches(model, load)


def csr(path: Path, load: Load, trust_remote_code: bool) -> Runs:
    """PyTorch's CSR tensors, multiplied by MKL, for every matrix with zeros."""
    model = load_model(path, trust_remote_code=trust_remote_code)
    _replace(model, lambda linear: CsrLinear(linear) if _zeros(linear.weight) > SPARSE else linear)
    return timed_batches(model, load)


class CsrLinear(nn.Module):
    """A linear layer without bias whose weight is stored by rows, zeros left out."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        if linear.bias is not None:
            raise ValueError("the benchmark's model has no biases")
        with warnings.catch_warnings():
            # That sparse CSR tensors are in beta.
            warnings.simplefilter("ignore")
            self.weight = linear.weight.detach().to_sparse_csr()

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])
        return (self.weight @ flat.T).T.reshape(*inputs.shape[:-1], -1)


def _replace(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, make(child))


def _zeros(weight: Tensor) -> float:
    return 1 - int(weight.count_nonzero()) / weight.numel()
