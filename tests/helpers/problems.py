"""Small layers with correlated inputs and outlier channels, as real ones have."""

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from pruning_core.column_sweep.kernels import KERNELS

WITHOUT_TRITON = pytest.mark.skipif(find_spec("triton") is None, reason="the package triton is not installed")
EVERY_KERNEL = [pytest.param(name, marks=WITHOUT_TRITON) if name == "triton" else name for name in KERNELS]


def layer(rows: int = 24, columns: int = 40, tokens: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(weight [rows, columns], inputs [tokens, columns]), float32."""
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=draw) / columns**0.5
    scale = torch.ones(columns)
    scale[:3] = 8.0
    inputs = torch.randn(tokens, columns, generator=draw) @ mixing * scale
    return torch.randn(rows, columns, generator=draw), inputs


def damped(inputs: Tensor, damping: float = 0.01) -> Tensor:
    """X^T X / tokens + damping * mean diagonal * I in float64."""
    hessian = inputs.double().T @ inputs.double() / len(inputs)
    return hessian + damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)


def quadratic(change: Tensor, hessian: Tensor) -> float:
    """0.5 tr(D H D^T) in float64."""
    change = change.double()
    return float((change @ hessian * change).sum()) / 2
