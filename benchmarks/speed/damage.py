"""The quality of compressed models, by one evaluation for all contestants."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.speed.workloads import Workload
from pruning_core.errors import ComputationError
from pruning_core.evaluation.paired import paired_difference
from pruning_core.evaluation.perplexity import Perplexity, perplexity
from pruning_core.source import load_model


def compressed_weights(folder: Path) -> dict[str, Tensor]:
    """Name -> matrix of everything that a contestant wrote into a folder."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ComputationError(f"{folder} holds no compressed weights")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def qualities(workload: Workload, folders: dict[str, Path], references: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Label -> perplexity, zeros, and how its mean loss differs from the dense model's and from its reference's.

    Args:
        folders: label -> where the compressed matrices lie.
        references: label -> label of the result that it is held against; labels without one get no such difference.

    Returns:
        "dense" first. Differences are [nats per token, paired standard error]; "zeros" is the share of zeros among the
        compressed matrices.
    """
    model = load_model(workload.model)
    dense = _state(model)
    windows = workload.held_out_tokens()
    judged = {"dense": perplexity(model, windows)}
    quality_of: dict[str, dict[str, Any]] = {"dense": {"perplexity": judged["dense"].value}}
    for label, folder in folders.items():
        weights = compressed_weights(folder)
        model.load_state_dict(dense | weights)
        judged[label] = perplexity(model, windows)
        quality_of[label] = {
            "perplexity": judged[label].value,
            "to_dense": _difference(judged[label], judged["dense"]),
            "zeros": _zeros(weights),
        }
    for label, reference in references.items():
        quality_of[label]["to_reference"] = _difference(judged[label], judged[reference])
    return quality_of


def _difference(one: Perplexity, other: Perplexity) -> list[float | None]:
    difference = paired_difference(one.losses, other.losses)
    return [difference.mean, difference.standard_error]


@torch.no_grad()
def logit_errors(workload: Workload, folders: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Label -> ||logits - dense logits|| / ||dense logits|| over the held-out tokens, and the share of zeros.

    For random weights, whose perplexity says nothing.
    """
    model = load_model(workload.model)
    dense = _state(model)
    windows = workload.held_out_tokens()
    reference = model(input_ids=windows).logits
    errors = {}
    for label, folder in folders.items():
        weights = compressed_weights(folder)
        model.load_state_dict(dense | weights)
        error = float((model(input_ids=windows).logits - reference).norm() / reference.norm())
        errors[label] = {"logit_error": error, "zeros": _zeros(weights)}
    return errors


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _zeros(weights: dict[str, Tensor]) -> float:
    return sum(int((w == 0).sum()) for w in weights.values()) / sum(w.numel() for w in weights.values())
