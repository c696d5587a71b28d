"""The section on Hutchinson probes, written from the figures of `benchmarks.studies.probes`."""

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from benchmarks.common.spreads import SpreadPanel, doublings
from benchmarks.common.tables import table
from benchmarks.quality.seeds import CAPTION, ledger, losses, perplexities, signed, spread, verdict
from benchmarks.studies.probes import PUBLISHED, SUMMED, UNIFORM
from benchmarks.studies.study import bullets, head, tail

ORDER_CAPTION = (
    "Rank correlations are Spearman's over all prunable matrices, of traces per weight, negative ones counting as 0. "
    "For every number of probes all disjoint groups of so many are taken, and the mean told, over the seeds, in "
    "brackets the extremes. **With all**: of a group and all probes, which it is a part of. **With another group**: of "
    "two groups that share no probe. **Moved**: mean absolute difference of a matrix's sparsity from that by all "
    "probes. **Away**: the same from the uniform allocation. **Negative**: matrices whose trace came out below 0."
)
LIMITS = (
    "The windows are the same for all probes of a seed: what more text would change is told by the two halves of it.",
    "The allocation scales the logarithms of the traces to their extremes: where few probes leave one near 0, most "
    "sparsities lie nearer together. So a number of probes changes the allocation's strength, and not its order alone.",
    "One small model: a deeper one has more matrices to put in order, and other curvature.",
)


def section(facts: Mapping[str, Any], plot: str) -> str:
    """Markdown.

    Args:
        plot: file name of the plot beside the page.
    """
    parts = [
        *head("Study: how many Hutchinson probes", "probes", facts, len(facts["seeds"])),
        bullets(reading(facts)),
        f"![Rank correlation and loss against the number of probes]({plot})",
        "## The order of the matrices",
        ORDER_CAPTION,
        _orders(facts),
        "## SparseGPT with the allocation that follows",
        CAPTION + " A seed also draws the probes.",
        _models(facts),
    ]
    settings = {
        "traces": f"{facts['probes']} probes on {facts['sequences']} calibration windows, the same traces for all "
        "numbers of probes",
        "allocation": "`by_sensitivity` with its defaults, `propagate: dense`",
    }
    return "\n\n".join([*parts, *tail(LIMITS, facts, settings)])


def reading(facts: Mapping[str, Any]) -> Iterator[str]:
    """Sentences, computed from the figures."""
    ways, probes = {way["name"]: way for way in facts["ways"]}, facts["probes"]
    counted = [way for way in facts["ways"] if way["name"].isdigit()]
    agreed = ", ".join(f"{_over(facts, int(way['name']), 'against_all')} with {way['title']}" for way in counted[:-1])
    if agreed:
        yield f"**Order**: rank correlation with all {probes} probes {agreed}."
    yield from _what_limits(facts)
    if len(counted) > 1:
        moved = ", ".join(
            f"{_over(facts, int(way['name']), 'moved', 100)} points with {way['title']}" for way in counted[:-1]
        )
        yield f"**Sparsities** differ from those by all probes by {moved}, in the mean over the matrices."
        differences = ", ".join(
            f"{signed(way['above_all'])} with {way['title']} ({verdict(way['above_all'])})" for way in counted[:-1]
        )
        yield f"**Loss above that with all {probes} probes**: {differences}."
    everything, summed, published = ways[str(probes)], ways[SUMMED], ways[PUBLISHED]
    yield (
        f"**Against the uniform allocation**: all probes {_against_uniform(everything)}, their sums "
        f"{_against_uniform(summed)}, the published estimate {_against_uniform(published)}."
    )
    ranks = [seed["published_against_sums"] for seed in facts["seeds"]]
    yield (
        f"**The published estimate**, one probe on one window: rank correlation {shown(ranks)} with the sums over all "
        f"probes and windows; loss {signed(published['above_all'])} above that with all probes per weight "
        f"({verdict(published['above_all'])})."
    )


def _what_limits(facts: Mapping[str, Any]) -> Iterator[str]:
    """Whether more probes or more text would change the order more."""
    halves = [seed["counts"][-2]["between"] if len(seed["counts"]) > 1 else None for seed in facts["seeds"]]
    texts = [seed["between_sequences"] for seed in facts["seeds"]]
    if None in halves or None in texts:
        return
    count = facts["seeds"][0]["counts"][-2]["probes"]
    what = "the text" if fmean(texts) < fmean(halves) else "the probes"
    yield (
        f"**What limits the order**: two groups of {count} probes on the same windows agree at {shown(halves)}, all "
        f"probes on one half of the windows and on the other at {shown(texts)}: the draw of {what} moves it more."
    )


def _against_uniform(way: Mapping[str, Any]) -> str:
    return f"{signed(way['above_uniform'])} ({verdict(way['above_uniform'], 'worse', 'better')})"


def _values(facts: Mapping[str, Any], count: int, what: str, times: float = 1) -> list[float]:
    """One value of every seed that has it."""
    rows = [row for seed in facts["seeds"] for row in seed["counts"] if row["probes"] == count]
    return [times * row[what] for row in rows if row[what] is not None]


def _over(facts: Mapping[str, Any], count: int, what: str, times: float = 1) -> str:
    return shown(_values(facts, count, what, times), ".3f" if times == 1 else ".2f")


def shown(values: list[float | None], form: str = ".3f") -> str:
    """Mean and extremes of the values that are not None."""
    defined = [value for value in values if value is not None]
    return spread(defined, form) if defined else "-"


def _orders(facts: Mapping[str, Any]) -> str:
    rows = [
        [
            str(row["probes"]),
            _over(facts, row["probes"], "against_all"),
            _over(facts, row["probes"], "between"),
            f"{_over(facts, row['probes'], 'moved', 100)} points",
            f"{_over(facts, row['probes'], 'away', 100)} points",
            f"{_over(facts, row['probes'], 'negative', 100)} %",
        ]
        for row in facts["seeds"][0]["counts"]
    ]
    return table(["probes", "with all", "with another group", "moved", "away", "negative"], rows)


def _models(facts: Mapping[str, Any]) -> str:
    rows = [
        [
            way["title"],
            perplexities(way["runs"]),
            spread(losses(way["runs"]), ".4f"),
            "" if way["name"] == str(facts["probes"]) else signed(way["above_all"]),
            "" if way["name"] == UNIFORM else signed(way["above_uniform"]),
            ledger(way["runs"]),
        ]
        for way in facts["ways"]
    ]
    header = [
        "allocation",
        "perplexity",
        "loss above dense",
        f"above {facts['probes']} probes",
        "above uniform",
        "ledger",
    ]
    return table(header, rows)


def panels(facts: Mapping[str, Any]) -> list[SpreadPanel]:
    """Agreement above, loss below."""
    counts = [row["probes"] for row in facts["seeds"][0]["counts"]]
    titles = {"against_all": "with all probes", "between": "with another group"}
    agreement = {
        title: {str(count): values for count in counts if (values := _values(facts, count, what))}
        for what, title in titles.items()
    }
    model_losses = {way["name"]: losses(way["runs"]) for way in facts["ways"]}
    models = {"SparseGPT": {str(count): model_losses[str(count)] for count in counts if str(count) in model_losses}}
    across, ticks = "probes", doublings(counts)
    drawn = [
        SpreadPanel(
            "Rank correlation",
            ticks,
            {name: points for name, points in agreement.items() if points},
            across,
            joined=True,
        ),
        SpreadPanel(
            "Loss above dense, nats per token",
            ticks,
            models,
            across,
            ("uniform", fmean(model_losses[UNIFORM])),
            joined=True,
        ),
    ]
    return [panel for panel in drawn if panel.series]
