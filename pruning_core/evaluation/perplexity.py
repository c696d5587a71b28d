"""Perplexity over windows of a text, as the pruning papers report it, in float32."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from pruning_core.errors import ComputationError
from pruning_core.evaluation.forward import (
    check_windows,
    next_token_logits,
    position_chunks,
    standard_error,
    window_batches,
)
from pruning_core.progress import Progress, ignore_progress


@dataclass(frozen=True, eq=False)
class Perplexity:
    """Losses per window, and what follows from them.

    Args:
        losses: [windows] float64, mean cross entropy of the window's predictions in nats per token.
        tokens: predicted tokens over all windows.
    """

    losses: Tensor
    tokens: int

    @property
    def mean_loss(self) -> float:
        """Mean loss in nats per token; all windows have the same number of predictions."""
        return float(self.losses.mean())

    @property
    def value(self) -> float:
        """exp of the mean loss; infinite where that exceeds every float."""
        return float(self.losses.mean().exp())

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean loss over windows, in nats; None for a single window."""
        return standard_error(self.losses)

    def facts(self) -> dict[str, Any]:
        """As JSON; a perplexity beyond every float is null, the mean loss tells it."""
        return {
            "perplexity": self.value if math.isfinite(self.value) else None,
            "mean_loss": self.mean_loss,
            "standard_error": self.standard_error,
            "windows": len(self.losses),
            "tokens": self.tokens,
        }


@torch.no_grad()
def perplexity(
    model: PreTrainedModel,
    windows: Tensor,
    batch: int = 16,
    progress: Progress = ignore_progress,
    scored: int | None = None,
) -> Perplexity:
    """Each window goes through the model on its own; its loss is the mean over its last `scored` predictions.

    Cross entropies are taken from float32 logits and summed in float64, so that the batch changes the
    result by float32 rounding only.

    Args:
        windows: [windows, length] int64 token ids.
        batch: windows per forward at most; fewer where the logits would exceed 1 GiB.
        scored: all length - 1 when absent.

    Raises:
        InputError: windows that the model cannot take.
        ComputationError: a loss that is not finite, with the window.
    """
    check_windows(model, windows, batch)
    scored = scored or windows.shape[1] - 1
    losses = torch.empty(len(windows), dtype=torch.float64)
    done = 0
    for rows in window_batches(model, windows, batch):
        for row, logits in zip(rows, next_token_logits(model, rows), strict=True):
            losses[done] = window_loss(logits[-scored:], row[-scored:].to(logits.device), done)
            done += 1
        progress(done, len(windows))
    return Perplexity(losses, scored * len(windows))


def window_loss(logits: Tensor, targets: Tensor, window: int) -> float:
    """Mean cross entropy of `logits` [positions, vocabulary] in nats; a ComputationError names a window without one."""
    total = 0.0
    for piece, (part,) in position_chunks(logits):
        total += float(F.cross_entropy(part, targets[piece], reduction="none").double().sum())
    mean = total / len(targets)
    if not math.isfinite(mean):
        raise ComputationError(f"the loss of window {window} is {mean}")
    return mean
