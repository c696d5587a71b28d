"""Step: the quality of a model on held-out windows, beside the dense model on the same windows."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning_core.evaluation.divergence import Divergence, compare_to_dense
from pruning_core.evaluation.paired import paired_difference
from pruning_core.evaluation.perplexity import Perplexity, perplexity
from pruning_core.evaluation.protocol import Protocol
from pruning_core.export import FORMATS
from pruning_core.source import load_model
from pruning_core.text.tokenized.windows import Windows
from tasks.engine.step import Context, step
from tasks.progress import progress
from tasks.steps.hidden_states import load_tokens
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import write_json

SELF = {"kl_to_dense": 0.0, "top1_agreement": 1.0, "difference_to_dense": {"mean": 0.0, "standard_error": 0.0}}
"""A model beside itself."""


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    """`batch` windows per forward; `format` of an export that has a reader of its own."""

    batch: int
    trust_remote_code: bool
    format: str | None = None


def reader(format: str | None) -> list[str]:
    """The module that reads a model which is an export of that format."""
    return [FORMATS.module(format)] if format else []


@step("evaluate", modules=lambda params: reader(params.format))
def evaluate(params: EvaluateParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """Perplexity, KL to the dense model and the paired difference to it.

    inputs: model, tokens, and for a compressed model also source (dense) and baseline (the dense evaluation).
    writes: metrics.json, windows.json {losses: nats per token of each window}.
    """
    windows = Windows(load_tokens(inputs["tokens"]), inputs["tokens"].facts)
    trust = params.trust_remote_code
    model = load_model(inputs["model"].path, trust_remote_code=trust)
    if "baseline" in inputs:
        dense = load_model(inputs["source"].path, trust_remote_code=trust)
        quality, divergence = compare_to_dense(
            model, dense, windows.tokens, params.batch, progress("evaluation"), windows.facts["scored"]
        )
        relative = _relative(quality, divergence, inputs["baseline"])
    else:
        quality = perplexity(model, windows.tokens, params.batch, progress("evaluation"), windows.facts["scored"])
        relative = SELF
    protocol = Protocol.of(windows)
    metrics = quality.facts() | relative | {"protocol": protocol.facts() | {"digest": protocol.digest}}
    write_json(out / "metrics.json", metrics)
    write_json(out / "windows.json", {"losses": quality.losses.tolist()})
    return metrics


def _relative(quality: Perplexity, divergence: Divergence, baseline: Artifact) -> dict[str, Any]:
    difference = paired_difference(quality.losses, losses_of(baseline))
    return {
        "kl_to_dense": divergence.mean_kl,
        "top1_agreement": divergence.top1_agreement,
        "difference_to_dense": {"mean": difference.mean, "standard_error": difference.standard_error},
    }


def losses_of(evaluation: Artifact) -> Tensor:
    """[windows] float64 losses, nats per token, of an evaluation artifact."""
    losses = json.loads((evaluation.path / "windows.json").read_text())["losses"]
    return torch.tensor(losses, dtype=torch.float64)
