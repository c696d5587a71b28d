"""What several draws of the calibration text say together: means, extremes, and differences paired by draw."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from benchmarks.quality.figures import CERTAIN, Figures
from pruning_core.evaluation.forward import standard_error

CAPTION = (
    "Means over the seeds, in brackets the extremes; a seed draws the calibration windows anew. Differences are paired "
    "by seed and by evaluation window; their standard error ± covers the draw of both. A difference is called certain "
    f"where it is larger than {CERTAIN:g} standard errors and has one sign in all seeds."
)


@dataclass(frozen=True)
class SeedDifference:
    """Mean loss of one way of working minus that of another, in nats per token."""

    mean: float
    standard_error: float | None
    """Of the windows and of the seeds together; None for a single window."""
    low: float
    """The lowest difference of a seed."""
    high: float

    @property
    def certain(self) -> bool:
        """Whether it is larger than what windows and seeds leave open."""
        if self.standard_error is None or self.low * self.high <= 0:
            return False
        return abs(self.mean) > CERTAIN * self.standard_error

    def facts(self) -> dict[str, Any]:
        """As JSON, with the verdict."""
        return asdict(self) | {"certain": self.certain}


def seed_difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> SeedDifference:
    """The difference of two ways whose seeds drew the same text.

    Args:
        first, second: per seed [windows] losses; one where a way has no seed.
    """
    apart = torch.stack(list(first)) - torch.stack(list(second))
    seeds = apart.mean(dim=1)
    of_windows, of_seeds = standard_error(apart.mean(dim=0)), standard_error(seeds)
    error = None if of_windows is None else (of_windows**2 + (of_seeds or 0.0) ** 2) ** 0.5
    return SeedDifference(float(apart.mean()), error, float(seeds.min()), float(seeds.max()))


def runs_of(figures: Mapping[int | None, Figures], dense: Figures) -> list[dict[str, Any]]:
    """JSON for each seed of one way of working."""
    runs = []
    for seed, result in figures.items():
        above = result.above(dense)
        runs.append(
            {
                "seed": seed,
                "perplexity": result.perplexity,
                "above_dense": above.mean,
                "standard_error": above.standard_error,
                "zeros": result.zeros,
                "ledger": result.events,
            }
        )
    return runs


def difference(first: Mapping[int | None, Figures], second: Mapping[int | None, Figures]) -> dict[str, Any]:
    """JSON of `seed_difference` for two ways with the same seeds, or one of them with none."""
    one, other = ([figures.losses for figures in way.values()] for way in (first, second))
    seeds = max(len(one), len(other))
    one, other = (losses * seeds if len(losses) == 1 else losses for losses in (one, other))
    return seed_difference(one, other).facts()


def signed(change: Mapping[str, Any]) -> str:
    """+0.1029 ± 0.0035."""
    error = change["standard_error"]
    return f"{change['mean']:+.4f}" + (f" ± {error:.4f}" if error is not None else "")


def verdict(change: Mapping[str, Any], more: str = "higher", less: str = "lower") -> str:
    """A word for the sign of a difference, or that it has none for certain."""
    if not change["certain"]:
        return "no certain difference"
    return more if change["mean"] > 0 else less


def perplexities(runs: Sequence[Mapping[str, Any]]) -> str:
    """Their mean with the extremes."""
    values = [run["perplexity"] for run in runs]
    return "overflow" if None in values else spread(values, ".2f")


def losses(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    """Of each seed, nats per token above the dense model."""
    return [run["above_dense"] for run in runs]


def spread(values: Sequence[float], form: str) -> str:
    """The mean, and behind it the extremes where there are several."""
    shown = f"{fmean(values):{form}}"
    return f"{shown} [{min(values):{form}}, {max(values):{form}}]" if len(values) > 1 else shown


def ledger(runs: Sequence[Mapping[str, Any]]) -> str:
    """Events with the most matrices that a run had one at; "-" without any."""
    most: dict[str, int] = {}
    for run in runs:
        for event, count in run["ledger"].items():
            most[event] = max(most.get(event, 0), count)
    return ", ".join(f"{event} {count}" for event, count in sorted(most.items())) or "-"
