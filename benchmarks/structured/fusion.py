"""Whether two estimates fused tell better what to keep than the better one of them: HyWIA's claim, seed by seed."""

from collections.abc import Mapping
from typing import Any

from benchmarks.quality.figures import Figures, certain
from benchmarks.structured.entries import FUSIONS, PARTS, Way

BETTER, WORSE, OPEN = "better", "worse", "open"


def fusions(figures_of: Mapping[Way, Mapping[int, Figures]]) -> list[dict[str, Any]]:
    """For every fusion with both its parts at hand: per seed, its loss above that of the better part.

    The better part is the one with the lower loss on the text that is judged on, which no one who prunes can know
    beforehand: a fusion that is level with it is worth having too.
    """
    comparisons = []
    for way, figures in figures_of.items():
        parts = [figures_of.get(way.at(importance=part)) for part in PARTS]
        if way.importance in FUSIONS and not way.training and all(parts):
            seeds = [_seed(seed, fused, [part[seed] for part in parts]) for seed, fused in figures.items()]
            comparisons.append(
                {"fusion": way.importance, "ratio": way.ratio, "mode": way.mode, "form": way.form, "seeds": seeds}
            )
    return comparisons


def _seed(seed: int, fused: Figures, parts: list[Figures]) -> dict[str, Any]:
    better = min(range(len(PARTS)), key=lambda place: float(parts[place].losses.mean()))
    above = fused.above(parts[better])
    verdict = OPEN if not certain(above) else (BETTER if above.mean < 0 else WORSE)
    return {
        "seed": seed,
        "better_part": PARTS[better],
        "mean": above.mean,
        "standard_error": above.standard_error,
        "above_other_part": fused.above(parts[1 - better]).mean,
        "verdict": verdict,
    }


def claim(seeds: list[Mapping[str, Any]]) -> str:
    """One word for all seeds of a fusion: better or worse where every seed says so, else open."""
    verdicts = {one["verdict"] for one in seeds}
    return verdicts.pop() if len(verdicts) == 1 else OPEN
