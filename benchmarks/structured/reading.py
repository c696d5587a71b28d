"""What the figures of structured pruning say in words; every sentence is computed from them."""

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from benchmarks.quality.entries import percent
from benchmarks.quality.seeds import losses, signed, spread, verdict
from benchmarks.structured.entries import FORMS, IMPORTANCES, MODES
from benchmarks.structured.fusion import BETTER, OPEN, WORSE, claim

Facts = Mapping[str, Any]


def reading(facts: Facts) -> Iterator[str]:
    """Sentences, computed from the figures."""
    for ratio in ratios(facts):
        for form in ("bare", "static"):
            by_importance = {
                way["importance"]: way for way in of(facts, ratio=ratio, mode="uniform", form=form, training="")
            }
            if by_importance:
                order = sorted(by_importance.values(), key=mean)
                yield (
                    f"**{percent(ratio)} % removed, {FORMS[form]}**: the lowest loss is that of {order[0]['title']} "
                    f"({mean(order[0]):.4f} above dense), then {', '.join(_short(way) for way in order[1:4])}"
                    + (f"; random: {mean(by_importance['random']):.4f}." if "random" in by_importance else ".")
                )
    yield from _widths(facts)
    yield from _fusion_verdicts(facts)
    for peer in facts["peers"]:
        yield (
            f"**HyWIA's fusion against LLM-Pruner's score** (Taylor, first order), {percent(peer['ratio'])} %, "
            f"{FORMS[peer['form']]}, {MODES[peer['mode']][0]}: {signed(peer['above'])} "
            f"({verdict(peer['above'], 'worse', 'better')})."
        )


def _widths(facts: Facts) -> Iterator[str]:
    """What it gives to let blocks keep different widths."""
    mixed = [way for way in of(facts, mode="mixed", form="static", training="") if way["above_even"]]
    sentences = [f"{way['title']}, {percent(way['ratio'])} %: {signed(way['above_even'])}" for way in mixed]
    if sentences:
        yield f"**Widths that differ from block to block, against equal ones**, least squares: {'; '.join(sentences)}."


def _fusion_verdicts(facts: Facts) -> Iterator[str]:
    """The claim, that fusing beats both parts, by fusion over all sizes and forms."""
    words = {BETTER: "holds", WORSE: "does not hold", OPEN: "is open"}
    for fusion in dict.fromkeys(one["fusion"] for one in facts["fusions"]):
        comparisons = [one for one in facts["fusions"] if one["fusion"] == fusion and one["mode"] == "uniform"]
        verdicts = []
        for one in comparisons:
            means = [seed["mean"] for seed in one["seeds"]]
            ahead = sum(seed["verdict"] == BETTER for seed in one["seeds"])
            behind = sum(seed["verdict"] == WORSE for seed in one["seeds"])
            verdicts.append(
                f"{percent(one['ratio'])} %, {FORMS[one['form']]}, {spread(means, '+.4f')}, better in {ahead} and "
                f"worse in {behind} of {len(means)} seeds: {words[claim(one['seeds'])]}"
            )
        yield f"**{IMPORTANCES[fusion][0]}, against the better of its parts**: {'; '.join(verdicts)}."


def ratios(facts: Facts) -> list[float]:
    """The shares of the parameters that were asked for."""
    return list(dict.fromkeys(way["ratio"] for way in facts["ways"]))


def of(facts: Facts, **values: Any) -> list[Facts]:
    """The ways with these values."""
    return [way for way in facts["ways"] if all(way[name] == value for name, value in values.items())]


def mean(way: Facts) -> float:
    """Loss above dense over the seeds, nats per token."""
    return fmean(losses(way["runs"]))


def _short(way: Facts) -> str:
    return f"{way['title']} ({mean(way):.4f})"
