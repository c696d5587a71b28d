"""Weights as functions of what is trained: masked ones, and masked ones with low-rank changes."""

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from pruning_core.model.decoder import matrix


class Masked(nn.Module):
    """W = m o V.

    Args:
        keep: [out, in] bool, or [in, out] for a Conv1D: as the module lays its weight out.
    """

    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", keep, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return weight.masked_fill(~self.keep, 0.0)


class MaskedLowRank(nn.Module):
    """W' = m o (W + scale B A): whatever A and B become, what m removes stays zero.

    Args:
        keep: as in `Masked`.
        rank: of B A; A [rank, columns] begins random, B [rows, rank] at zero, so that W' begins as W.
        scale: alpha / rank.
    """

    keep: Tensor

    def __init__(self, keep: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = keep.shape
        self.register_buffer("keep", keep, persistent=False)
        self.scale = scale
        self.a = nn.Parameter(torch.empty(rank, columns, device=keep.device))
        self.b = nn.Parameter(torch.zeros(rows, rank, device=keep.device))
        # The range of a linear layer's own initial weights, as LoRA's authors use (arXiv:2106.09685, their code).
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return (weight + self.scale * (self.b @ self.a)).masked_fill(~self.keep, 0.0)


@contextlib.contextmanager
def parametrized(parametrizations: Mapping[nn.Module, nn.Module]) -> Iterator[None]:
    """Inside the block each module's weight is what its parametrization makes of it; afterwards it is that weight.

    Where the block raises the weights are merged too: a caller never sees a half-parametrized model.
    """
    for module, parametrization in parametrizations.items():
        # unsafe: the forward is known to keep shape and dtype, and checking it would cost one more product each.
        parametrize.register_parametrization(module, "weight", parametrization, unsafe=True)
    try:
        yield
    finally:
        for module in parametrizations:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
            module.weight.requires_grad_(False)


def own_layout(module: nn.Module, keep: Tensor) -> Tensor:
    """A mask [out, in] as the module lays its weight out, on the weight's device."""
    keep = keep.T if isinstance(module, Conv1D) else keep
    return keep.contiguous().to(matrix(module).device)
