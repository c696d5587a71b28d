"""Paired comparison of two models on the same items: McNemar's test, bootstrap interval, paired loss difference."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning_core.errors import InputError
from pruning_core.evaluation.forward import standard_error

CONFIDENCE = 0.95
RESAMPLES = 10_000
SEED = 0


@dataclass(frozen=True)
class PairedAccuracy:
    """How a model's answers differ from those of another on the same items.

    Most items are answered alike by both, and these say nothing of a difference; so the paired interval is
    narrower than what two separate standard errors suggest.

    Args:
        items: how many.
        lost: right with the other model only.
        gained: right with this model only.
        difference: accuracy of this model minus that of the other, -1 to 1.
        interval: 95 % percentile interval of the difference over resampled items (`bootstrap_interval`).
        p_value: of McNemar's exact test (`mcnemar`).
    """

    items: int
    lost: int
    gained: int
    difference: float
    interval: tuple[float, float]
    p_value: float

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self) | {"interval": list(self.interval)}


def paired_accuracy(own: Sequence[bool], other: Sequence[bool]) -> PairedAccuracy:
    """Compare which items two models answer correctly; equal answers give equal numbers.

    Args:
        own: [items] whether this model is right.
        other: [items] whether the other is, of the same items in the same order.

    Raises:
        InputError: different numbers of items, or none.
    """
    if len(own) != len(other) or not len(own):
        raise InputError(
            f"a paired comparison needs the same items, at least one, got {len(own)} and {len(other)}; evaluate both "
            "models with one protocol"
        )
    pairs = list(zip(own, other, strict=True))
    gained = sum(mine and not theirs for mine, theirs in pairs)
    lost = sum(theirs and not mine for mine, theirs in pairs)
    interval = bootstrap_interval(gained, lost, len(pairs))
    return PairedAccuracy(len(pairs), lost, gained, (gained - lost) / len(pairs), interval, mcnemar(gained, lost))


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p value of McNemar's exact test (McNemar, Psychometrika 12, 1947).

    The probability that, of the items which only one of two models answers correctly, this many or more would be one
    model's if each were either's with probability one half.
    """
    discordant, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(discordant, count) for count in range(fewer + 1))
    # Whole numbers up to the division, which Python rounds correctly however many digits they have: the last bit is in
    # the digest of an evaluation. That of scipy's binomtest, a sum of rounded densities, differs for two in five pairs.
    both_tails: float = 2 * tail / 2**discordant
    return min(1.0, both_tails)


def bootstrap_interval(
    gained: int,
    lost: int,
    items: int,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
) -> tuple[float, float]:
    """Percentile interval of the accuracy difference when items are drawn anew with replacement (Efron, 1979).

    An item adds 1, 0 or -1 to the difference, so a resample is one draw of how many of each it holds: two milliseconds
    for any number of items, where scipy's bootstrap draws every item of every resample.
    """
    same = items - gained - lost
    drawn = np.random.default_rng(seed).multinomial(items, np.array([gained, same, lost]) / items, size=resamples)
    tail = (1 - confidence) / 2
    low, high = np.quantile((drawn[:, 0] - drawn[:, 2]) / items, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over windows, in nats per token, with its standard error (None for a single window).

    Windows differ much more from each other than models do, so the paired error is the one that tells
    two models apart.
    """

    mean: float
    standard_error: float | None
    windows: int

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity of a over that of b; infinite where that exceeds every float."""
        return float(torch.tensor(self.mean, dtype=torch.float64).exp())


def paired_difference(a_losses: Tensor, b_losses: Tensor) -> PairedDifference:
    """The difference of two models' losses over the same windows.

    Args:
        a_losses: [windows] nats per token.
        b_losses: [windows] nats per token, of the same windows in the same order.

    Raises:
        InputError: different numbers of windows, or none.
    """
    if a_losses.shape != b_losses.shape or a_losses.ndim != 1 or a_losses.numel() == 0:
        raise InputError(
            f"a paired difference needs losses over the same windows, got shapes {list(a_losses.shape)}"
            f" and {list(b_losses.shape)}; evaluate both models with one protocol"
        )
    difference = a_losses.double() - b_losses.double()
    return PairedDifference(float(difference.mean()), standard_error(difference), difference.numel())
