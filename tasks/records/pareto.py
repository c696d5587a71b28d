"""Pareto fronts: the variants that no other beats in both quality and cost.

Quality is the loss increase over dense, nats per token. Each cost has a front of its own: with all of them together
nearly every variant would be on the front, for each is the smallest, or measured the fastest, by a hair.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tasks.records.variant import Variant

Interval = tuple[float, float]


@dataclass(frozen=True)
class Cost:
    """A cost of a variant; less is better.

    Args:
        name: for tables.
        title: for axes, with the unit.
        interval: lowest and highest of it that are in keeping with the measurement, None where it is not known.
    """

    name: str
    title: str
    interval: Callable[[Variant], Interval | None]


@dataclass(frozen=True)
class Candidate:
    """A variant on the two axes of a front; a larger cost is worse."""

    name: str
    loss: float
    cost: Interval

    def beats(self, other: "Candidate") -> bool:
        """Better in one and not worse in the other; costs that overlap are equal, for the difference may be noise."""
        cheaper, dearer = self.cost[1] < other.cost[0], self.cost[0] > other.cost[1]
        return self.loss <= other.loss and not dearer and (self.loss < other.loss or cheaper)


def loss_increase(variant: Variant) -> float | None:
    """Nats per token above dense; of the dense model 0."""
    difference = variant.metrics.difference_to_dense
    return 0.0 if variant.is_baseline else difference and difference.mean


def _bytes(size: float | None) -> Interval | None:
    return None if size is None else (size, size)


def _seconds_per_token(variant: Variant) -> Interval | None:
    rate = variant.speed and variant.speed.decode_tokens_per_second
    if not rate or rate.median <= 0:
        return None
    return 1 / (rate.high or rate.median), 1 / (rate.low or rate.median)


COSTS = (
    Cost("packed", "size with zeros behind a bitmask, MB", lambda variant: _bytes(variant.packed_bytes)),
    Cost("stored", "size as stored, MB", lambda variant: _bytes(variant.size_bytes)),
    Cost("speed", "decoding, milliseconds per token", _seconds_per_token),
)


def front(variants: Iterable[Variant], cost: Cost) -> list[str]:
    """The names that no other variant beats, best quality first; the dense model takes part."""
    candidates = [
        Candidate(variant.name, loss, interval)
        for variant in variants
        if (loss := loss_increase(variant)) is not None and (interval := cost.interval(variant)) is not None
    ]
    best = [one for one in candidates if not any(other.beats(one) for other in candidates)]
    return [one.name for one in sorted(best, key=lambda one: (one.loss, one.cost))]


def fronts(variants: list[Variant]) -> dict[str, list[str]]:
    """Name of a variant -> the costs on whose front it is; [] for one that others beat everywhere."""
    costs: dict[str, list[str]] = {variant.name: [] for variant in variants}
    for cost in COSTS:
        for name in front(variants, cost):
            costs[name].append(cost.name)
    return costs
