"""Step: the quality of a model on held-out windows, beside the dense model on the same windows."""

from pathlib import Path
from typing import Any

from pruning_core.evaluation.comparison import paired_difference
from pruning_core.evaluation.divergence import kl_to_dense
from pruning_core.evaluation.perplexity import perplexity
from pruning_core.evaluation.protocol import Protocol
from pruning_core.source import load_model
from pruning_core.text.windows import Windows
from tasks.artifact import Artifact
from tasks.canonical import write_json
from tasks.progress import progress
from tasks.states import load_tokens
from tasks.step import Context, step


@step("evaluate")
def evaluate(
    params: dict[str, Any], inputs: dict[str, Artifact], out: Path, context: Context
) -> dict[str, Any]:
    """Perplexity, KL to the dense model and the paired difference to it.

    params: batch, trust_remote_code.
    inputs: model, tokens, and for a compressed model also source (dense) and baseline (the dense evaluation).
    writes: metrics.json, windows.json {losses: nats per token of each window}.
    """
    windows = Windows(load_tokens(inputs["tokens"]), inputs["tokens"].facts)
    trust = params["trust_remote_code"]
    model = load_model(inputs["model"].path, trust_remote_code=trust)
    own = perplexity(model, windows.tokens, params["batch"], progress("perplexity"))
    metrics = own.facts() | _against_dense(params, inputs, model, windows, own)
    protocol = Protocol.of(windows)
    metrics["protocol"] = protocol.facts() | {"digest": protocol.digest}
    write_json(out / "metrics.json", metrics)
    write_json(out / "windows.json", {"losses": own.losses.tolist()})
    return metrics


def _against_dense(
    params: dict[str, Any], inputs: dict[str, Artifact], model: Any, windows: Windows, own: Any
) -> dict[str, Any]:
    if "baseline" not in inputs:
        return {
            "kl_to_dense": 0.0,
            "top1_agreement": 1.0,
            "difference_to_dense": {"mean": 0.0, "standard_error": 0.0},
        }
    dense = load_model(inputs["source"].path, trust_remote_code=params["trust_remote_code"])
    divergence = kl_to_dense(model, dense, windows.tokens, params["batch"], progress("KL to the dense model"))
    baseline = losses_of(inputs["baseline"])
    difference = paired_difference(own.losses, baseline)
    return {
        "kl_to_dense": divergence.mean_kl,
        "top1_agreement": divergence.top1_agreement,
        "difference_to_dense": {"mean": difference.mean, "standard_error": difference.standard_error},
    }


def losses_of(evaluation: Artifact) -> Any:
    """[windows] float64 losses of an evaluation artifact."""
    import json

    import torch

    losses = json.loads((evaluation.path / "windows.json").read_text())["losses"]
    return torch.tensor(losses, dtype=torch.float64)
