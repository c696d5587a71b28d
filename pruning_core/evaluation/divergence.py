"""KL divergence of a compressed model's predictions from the dense model's, token by token."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pruning_core.errors import ComputationError, InputError
from pruning_core.evaluation.forward import (
    check_windows,
    next_token_logits,
    position_chunks,
    standard_error,
    window_batches,
)
from pruning_core.evaluation.perplexity import Perplexity, window_loss
from pruning_core.progress import Progress, ignore_progress


@dataclass(frozen=True, eq=False)
class Divergence:
    """Divergence per window, and what follows from it.

    Args:
        kl: [windows] float64, mean KL(dense || model) over the window's predictions in nats per token.
        agreement: [windows] float64, share of predictions where both models put the same token first.
        tokens: predictions over all windows.
    """

    kl: Tensor
    agreement: Tensor
    tokens: int

    @property
    def mean_kl(self) -> float:
        """Mean KL(dense || model) in nats per token."""
        return float(self.kl.mean())

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean KL over windows, in nats; None for a single window."""
        return standard_error(self.kl)

    @property
    def top1_agreement(self) -> float:
        """Share of all predictions with the same first token."""
        return float(self.agreement.mean())

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "kl_to_dense": self.mean_kl,
            "standard_error": self.standard_error,
            "top1_agreement": self.top1_agreement,
            "windows": len(self.kl),
            "tokens": self.tokens,
        }


def kl_to_dense(
    model: PreTrainedModel,
    dense: PreTrainedModel,
    windows: Tensor,
    batch: int = 16,
    progress: Progress = ignore_progress,
) -> Divergence:
    """The divergence alone; see `compare_to_dense`."""
    return compare_to_dense(model, dense, windows, batch, progress)[1]


@torch.no_grad()
def compare_to_dense(
    model: PreTrainedModel,
    dense: PreTrainedModel,
    windows: Tensor,
    batch: int = 16,
    progress: Progress = ignore_progress,
    scored: int | None = None,
) -> tuple[Perplexity, Divergence]:
    """The model's perplexity and KL(dense || model) over the whole vocabulary, from one forward of each.

    Both are taken at the same predictions, the last `scored` of each window. Both models see the same batch;
    log-probabilities are float32, sums float64.

    Args:
        windows: [windows, length] int64 token ids.
        batch: windows per forward at most; fewer where the logits would exceed 1 GiB.
        scored: all length - 1 when absent.

    Raises:
        InputError: windows that one of the models cannot take, or models of different vocabularies.
        ComputationError: a divergence that is not finite, with the window.
    """
    check_windows(model, windows, batch)
    check_windows(dense, windows, batch)
    scored = scored or windows.shape[1] - 1
    kl = torch.empty(len(windows), dtype=torch.float64)
    agreement, losses = torch.empty_like(kl), torch.empty_like(kl)
    done = 0
    for rows in window_batches(model, windows, batch, models=2):
        ours = next_token_logits(model, rows)
        theirs = next_token_logits(dense, rows).to(ours.device)
        if ours.shape != theirs.shape:
            raise InputError(
                f"the models predict {ours.shape[-1]} and {theirs.shape[-1]} tokens; KL needs one vocabulary"
            )
        for row, mine, true in zip(rows, ours, theirs, strict=True):
            losses[done] = window_loss(mine[-scored:], row[-scored:].to(ours.device), done)
            kl[done], agreement[done] = _window(mine[-scored:], true[-scored:])
            if not kl[done].isfinite():
                raise ComputationError(f"KL(dense || model) of window {done} is {float(kl[done])}")
            done += 1
        progress(done, len(windows))
    tokens = scored * len(windows)
    return Perplexity(losses, tokens), Divergence(kl, agreement, tokens)


def _window(model: Tensor, dense: Tensor) -> tuple[float, float]:
    divergence, agreed = 0.0, 0
    for _, (ours, true) in position_chunks(model, dense):
        log_q, log_p = ours.log_softmax(-1), true.log_softmax(-1)
        terms = log_p.exp() * (log_p - log_q)
        # A token that the dense model rules out counts nothing; 0 * (-inf) would be NaN.
        terms = terms.masked_fill(log_p.isneginf(), 0.0)
        divergence += float(terms.sum(dtype=torch.float64))
        agreed += int((ours.argmax(-1) == true.argmax(-1)).sum())
    return divergence / len(model), agreed / len(model)
