"""Cached predictions of the dense model: the largest probabilities of each position and one number for the rest."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pruning_core.progress import Progress, ignore_progress

SMALL = 1 << 15
"""Vocabularies below this have indices of two bytes."""


@dataclass(frozen=True)
class DenseTargets:
    """The dense model's predictions of some windows.

    KL(dense || candidate) over these tokens and one bucket for all others is a lower bound of the KL over the whole
    vocabulary (merging outcomes never raises a KL), and equal to it where `top` covers the vocabulary. Dropping the
    tail and renormalising, as a published code does, bounds nothing.
    """

    tokens: Tensor = field(repr=False)
    """[windows, length - 1, top] int16 or int32: the most probable tokens of each position."""
    log_probability: Tensor = field(repr=False)
    """[windows, length - 1, top] float32, their logarithms in nats."""
    log_tail: Tensor = field(repr=False)
    """[windows, length - 1] float32: the logarithm of what all other tokens share; -inf where there are none."""

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        logits: Callable[[Tensor], Tensor],
        windows: Tensor,
        top: int,
        batch: int,
        progress: Progress = ignore_progress,
    ) -> "DenseTargets":
        """The targets of `windows`.

        Args:
            logits: token ids [rows, length] -> the dense model's logits [rows, length - 1, vocabulary].
            windows: [windows, length] int64.
            top: how many probabilities to keep; all of a smaller vocabulary.
            batch: windows per forward.
        """
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for rows in windows.split(batch):
            dense = logits(rows).float()
            vocabulary = dense.shape[-1]
            best = dense.topk(min(top, vocabulary), dim=-1)
            log_probability = best.values - dense.logsumexp(-1, keepdim=True)
            tail = dense.scatter(-1, best.indices, -torch.inf).logsumexp(-1) - dense.logsumexp(-1)
            index = best.indices.to(torch.int16 if vocabulary <= SMALL else torch.int32)
            kept.append((index.cpu(), log_probability.cpu(), tail.cpu()))
            progress(sum(len(part[2]) for part in kept), len(windows))
        return cls(*(torch.cat(parts) for parts in zip(*kept, strict=True)))

    def divergence(self, row: int, logits: Tensor) -> float:
        """KL(dense || candidate) of a window, summed over its predictions, in nats; logits [length - 1, vocabulary]."""
        candidate = logits.float()
        index = self.tokens[row].to(candidate.device, torch.int64)
        log_p = self.log_probability[row].to(candidate.device)
        whole = candidate.logsumexp(-1)
        total = (log_p.exp() * (log_p - (candidate.gather(-1, index) - whole[:, None]))).sum(dtype=torch.float64)
        if index.shape[-1] < candidate.shape[-1]:
            log_tail = self.log_tail[row].to(candidate.device)
            rest = candidate.scatter(-1, index, -torch.inf).logsumexp(-1) - whole
            total += (log_tail.exp() * (log_tail - rest)).sum(dtype=torch.float64)
        return float(total)

    def save(self, path: Path) -> None:
        """Write the targets as safetensors."""
        save_file({"tokens": self.tokens, "log_probability": self.log_probability, "log_tail": self.log_tail}, path)

    @classmethod
    def load(cls, path: Path) -> "DenseTargets":
        """The targets of a file, mapped into memory."""
        with safe_open(path, framework="pt", device="cpu") as file:
            return cls(*(file.get_tensor(name) for name in ("tokens", "log_probability", "log_tail")))


@dataclass(frozen=True)
class Targets:
    """The targets of all windows in parts of `size` windows, each in a file of its own."""

    parts: list[DenseTargets]
    size: int

    def divergences(self, rows: list[int], logits: Tensor) -> list[float]:
        """KL(dense || candidate) of each window, summed over its predictions, in nats.

        Args:
            rows: numbers of the windows.
            logits: the candidate's, [rows, length - 1, vocabulary].
        """
        # One by one: the logits of a window fit the caches, and its number is the same whatever it is run beside.
        pairs = zip(rows, logits, strict=True)
        return [self.parts[row // self.size].divergence(row % self.size, window_logits) for row, window_logits in pairs]
