"""The section on Fisher and Hessian, written from the figures of `benchmarks.studies.fisher_hessian`."""

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from benchmarks.common.spreads import SpreadPanel, evenly
from benchmarks.common.tables import table
from benchmarks.quality.seeds import CAPTION, ledger, losses, perplexities, signed, spread, verdict
from benchmarks.studies.fisher_hessian import DATA, EVERY, HESSIAN, SAMPLED, TITLES
from benchmarks.studies.probes import UNIFORM
from benchmarks.studies.probes_page import shown
from benchmarks.studies.study import bullets, head, tail

RANKS = (
    "Spearman's rank correlation of the traces per weight, negative ones counting as 0; the mean over the seeds, in "
    "brackets the extremes. A row of one kind of matrix compares its matrices over the depth of the model. **Halves of "
    "the windows**: each measure with itself, on every other window and on the rest. **Between seeds**: each measure "
    "with itself where windows, labels and probes are all drawn anew; two measures can hardly agree better than that."
)
LIMITS = (
    "Few matrices of one kind: a rank correlation over as many as the model has blocks takes few values.",
    "All three see the same windows, but Hutchinson's trace takes many times the gradients on them.",
    "The model is trained to its text: far from a minimum the Fisher information and the Hessian are further apart.",
)


def section(facts: Mapping[str, Any], plot: str) -> str:
    """Markdown.

    Args:
        plot: file name of the plot beside the page.
    """
    seeds = len(facts["ways"][0]["runs"])
    parts = [
        *head("Study: Fisher information or Hessian", "fisher-hessian", facts, seeds),
        bullets(reading(facts)),
        f"![Rank correlations by kind of matrix, and the loss that follows]({plot})",
        "## Do they put the matrices in one order?",
        RANKS,
        _ranks(facts),
        _themselves(facts),
        "## SparseGPT with the allocation that follows",
        CAPTION,
        _models(facts),
    ]
    settings = {
        "measures": f"on {facts['sequences']} calibration windows; Hutchinson's trace with {facts['probes']} probes",
        "allocation": "`by_sensitivity` with its defaults, `propagate: dense`",
    }
    return "\n\n".join([*parts, *tail(LIMITS, facts, settings)])


def reading(facts: Mapping[str, Any]) -> Iterator[str]:
    """Sentences, computed from the figures."""
    for pair in facts["pairs"]:
        kinds = {kind: _mean(values) for kind, values in pair["rows"].items() if kind != EVERY}
        by_kind = {kind: value for kind, value in kinds.items() if value is not None}
        text = (
            f"**{TITLES[pair['first']]} and {TITLES[pair['second']]}**: rank correlation {shown(pair['rows'][EVERY])}"
        )
        if by_kind:
            least, most = min(by_kind, key=by_kind.get), max(by_kind, key=by_kind.get)
            text += f"; within one kind of matrix from {by_kind[least]:.2f} ({least}) to {by_kind[most]:.2f} ({most})"
        yield text + "."
    correlations = ", ".join(
        f"{TITLES[one['name']]} {shown(one['seeds'])}" for one in facts["themselves"] if one["seeds"]
    )
    if correlations:
        yield f"**Each with itself, everything drawn anew**: {correlations}."
    ways = {way["name"]: way for way in facts["ways"]}
    correlations = ", ".join(_told(ways[name], "above_hessian") for name in (DATA, SAMPLED))
    yield f"**Loss above that with Hutchinson's trace**: {correlations}."
    correlations = ", ".join(_told(ways[name], "above_uniform") for name in TITLES)
    yield f"**Loss above that with the uniform allocation**: {correlations}."


def _told(way: Mapping[str, Any], against: str) -> str:
    return f"{way['title']} {signed(way[against])} ({verdict(way[against], 'worse', 'better')})"


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None


def _ranks(facts: Mapping[str, Any]) -> str:
    pairs = facts["pairs"]
    rows = [[row, *(shown(pair["rows"][row]) for pair in pairs)] for row in pairs[0]["rows"]]
    return table(["", *(f"{TITLES[pair['first']]}; {TITLES[pair['second']]}" for pair in pairs)], rows)


def _themselves(facts: Mapping[str, Any]) -> str:
    rows = [[TITLES[one["name"]], shown(one["halves"]), shown(one["seeds"])] for one in facts["themselves"]]
    return table(["each with itself", "halves of the windows", "between seeds"], rows)


def _models(facts: Mapping[str, Any]) -> str:
    rows = [
        [
            way["title"],
            perplexities(way["runs"]),
            spread(losses(way["runs"]), ".4f"),
            "" if way["name"] == HESSIAN else signed(way["above_hessian"]),
            "" if way["name"] == UNIFORM else signed(way["above_uniform"]),
            ledger(way["runs"]),
        ]
        for way in facts["ways"]
    ]
    header = ["allocation", "perplexity", "loss above dense", f"above {TITLES[HESSIAN]}", "above uniform", "ledger"]
    return table(header, rows)


def panels(facts: Mapping[str, Any]) -> list[SpreadPanel]:
    """Correlations above, loss below."""
    rows = list(facts["pairs"][0]["rows"])
    ranks = {
        f"{_short(pair['first'])} – {_short(pair['second'])}": {
            row: defined for row in rows if (defined := [value for value in pair["rows"][row] if value is not None])
        }
        for pair in facts["pairs"]
    }
    models = {way["title"]: losses(way["runs"]) for way in facts["ways"]}
    drawn = [
        SpreadPanel(
            "Rank correlation of two measures", evenly(rows), {name: points for name, points in ranks.items() if points}
        ),
        SpreadPanel("Loss above dense, nats per token", evenly(models), {"SparseGPT": models}, "allocation by"),
    ]
    return [panel for panel in drawn if panel.series]


def _short(measure: str) -> str:
    return {DATA: "Fisher, labels", SAMPLED: "Fisher, sampled", HESSIAN: "Hutchinson"}[measure]
