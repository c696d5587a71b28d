"""Raw records become medians, spreads and ratios."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.common.floor import Work


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Of at least one value."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])


def seconds(
    records: list[dict[str, Any]], contestant: str, setting: str = "", phase: str = "seconds"
) -> dict[int, float]:
    """Round -> seconds of a contestant's phase; empty where it took no part or has no such phase."""
    matching = (r for r in records if r["contestant"] == contestant and r["setting"] == setting and phase in r)
    return {record["repeat"]: record[phase] for record in matching}


def ratio(above: dict[int, float], below: dict[int, float]) -> Spread | None:
    """above / below, taken within each round; None where one of them took no part."""
    shared = above.keys() & below.keys()
    return Spread.of(above[repeat] / below[repeat] for repeat in shared) if shared else None


def sustained_rate(rates: list[dict[str, float]]) -> float:
    """Operations per second: the best shape of each measurement, and the median of the measurements."""
    return statistics.median(max(shapes.values()) for shapes in rates)


def ratios(records: list[dict[str, Any]], setting: str, work: Work, rate: float) -> dict[str, Spread | None]:
    """How far this project is from the floor, and the others from it."""
    espalier = seconds(records, "espalier", setting)
    peer = seconds(records, "llmcompressor", setting)
    return {
        "floor": ratio(espalier, dict.fromkeys(espalier, work.total / rate)),
        "llmcompressor": ratio(peer, espalier),
        "published": ratio(seconds(records, "published", setting), espalier),
        "variant": ratio(peer, seconds(records, "variant", setting)),
    }
