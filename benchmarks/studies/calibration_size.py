"""How many windows of calibration text a method needs: perplexity against their number."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from benchmarks.common.spreads import SpreadPanel, doublings
from benchmarks.common.tables import table
from benchmarks.quality.entries import Entry
from benchmarks.quality.figures import Bench
from benchmarks.quality.seeds import (
    CAPTION,
    difference,
    ledger,
    losses,
    perplexities,
    runs_of,
    signed,
    spread,
    verdict,
)
from benchmarks.studies.study import StudySettings, bullets, head, judged, recipe, tail, title_of
from benchmarks.studies.windows import OneDraw

SIZES = (4, 8, 16, 32, 64, 128, 256)
METHODS = ("wanda", "sparsegpt")
LIMITS = (
    "One small model whose widest matrix has few inputs: a wider one has more directions to fill, and needs more text.",
    "Statistics are those of the dense model; behind compressed blocks a small sample might tell otherwise.",
    "Fewer windows are some of the most, evenly spread: the windows that all share make their differences smaller.",
)


def measured(study: StudySettings, sizes: Sequence[int] = SIZES) -> dict[str, Any]:
    """The figures as JSON; the section is made of them alone."""
    sizes = sorted(set(sizes))
    entries = {
        (method, size, seed): Entry(
            f"{method}-{size}-windows-{seed}",
            title_of(method),
            recipe(study.papers, method),
            seed=seed,
            overrides=(f"calibration.sequences={size}",),
        )
        for method in METHODS
        for size in sizes
        for seed in range(study.seeds)
    }
    bench = Bench(study.root, study.overrides, entries.values(), partial(OneDraw, drawn=sizes[-1]), divergence=False)
    dense, results = bench.dense(), judged(bench, entries, study.say)

    def way(method: str, size: int) -> dict[int, Any]:
        return {seed: results[method, size, seed] for seed in range(study.seeds)}

    return {
        "settings": bench.settings(),
        "dense": {"perplexity": dense.perplexity, "mean_loss": float(dense.losses.mean())},
        "methods": [
            {
                "name": method,
                "title": title_of(method),
                "recipe": recipe(study.papers, method),
                "sizes": [
                    {
                        "windows": size,
                        "runs": runs_of(way(method, size), dense),
                        "above_largest": difference(way(method, size), way(method, sizes[-1])),
                    }
                    for size in sizes
                ],
            }
            for method in METHODS
        ],
        "apart": [{"windows": size, **difference(way(METHODS[1], size), way(METHODS[0], size))} for size in sizes],
    }


def section(facts: Mapping[str, Any], plot: str) -> str:
    """Markdown.

    Args:
        plot: file name of the plot beside the page.
    """
    sizes = [str(one["windows"]) for one in facts["apart"]]
    seeds = len(facts["methods"][0]["sizes"][0]["runs"])
    parts = [
        *head("Study: how much calibration text", "calibration-size", facts, seeds),
        bullets(reading(facts)),
        f"![Perplexity against the number of calibration windows]({plot})",
        CAPTION,
    ]
    for method in facts["methods"]:
        parts += [f"## {method['title']}", _table(method, sizes[-1])]
    settings = {"calibration windows": f"{', '.join(sizes)} of {sizes[-1]} drawn, instead of the number below"}
    settings["statistics"] = "`propagate: dense`"
    return "\n\n".join([*parts, *tail(LIMITS, facts, settings)])


def reading(facts: Mapping[str, Any]) -> Iterator[str]:
    """Sentences, computed from the figures."""
    length = facts["settings"]["length"]
    for method in facts["methods"]:
        sizes = method["sizes"]
        first, last = sizes[0], sizes[-1]
        yield (
            f"**{method['title']}**: loss above dense {fmean(losses(first['runs'])):.4f} with {first['windows']} "
            f"windows ({first['windows'] * length:,} tokens), {fmean(losses(last['runs'])):.4f} with "
            f"{last['windows']} ({signed(first['above_largest'])}, {verdict(first['above_largest'])}). "
            f"{_from_where(sizes)}"
        )
        widest, narrowest = (f"{max(losses(one['runs'])) - min(losses(one['runs'])):.4f}" for one in (first, last))
        yield (
            f"**{method['title']}, the draw**: between seeds the loss differs by {widest} with {first['windows']} "
            f"windows and by {narrowest} with {last['windows']}."
        )
    names = [method["title"] for method in facts["methods"]]
    differences = ", ".join(f"{signed(one)} at {one['windows']} ({verdict(one)})" for one in _ends(facts["apart"]))
    yield f"**{names[1]} minus {names[0]}**: {differences}."


def _from_where(sizes: Sequence[Mapping[str, Any]]) -> str:
    """The fewest windows from which on none is told apart from the most."""
    last = max((place for place, one in enumerate(sizes) if one["above_largest"]["certain"]), default=-1)
    enough, most = sizes[last + 1], sizes[-1]["windows"]
    if enough["windows"] == most:
        return f"No fewer than {most} are certain to do as well."
    return (
        f"From {enough['windows']} windows on no certain difference to {most} is left "
        f"({signed(enough['above_largest'])} there)."
    )


def _ends(sizes: Sequence[Any]) -> Sequence[Any]:
    return sizes if len(sizes) < 2 else (sizes[0], sizes[-1])


def _table(method: Mapping[str, Any], largest: str) -> str:
    rows = [
        [
            str(one["windows"]),
            perplexities(one["runs"]),
            spread(losses(one["runs"]), ".4f"),
            "" if str(one["windows"]) == largest else signed(one["above_largest"]),
            "" if str(one["windows"]) == largest else verdict(one["above_largest"]),
            ledger(one["runs"]),
        ]
        for one in method["sizes"]
    ]
    return table(["windows", "perplexity", "loss above dense", f"above {largest} windows", "verdict", "ledger"], rows)


def panels(facts: Mapping[str, Any]) -> list[SpreadPanel]:
    """A panel per method, for their perplexities are far apart."""
    across = f"calibration windows of {facts['settings']['length']} tokens"
    return [
        SpreadPanel(
            f"{method['title']}: loss above dense, nats per token",
            doublings(one["windows"] for one in method["sizes"]),
            {method["title"]: {str(one["windows"]): losses(one["runs"]) for one in method["sizes"]}},
            across,
            joined=True,
        )
        for method in facts["methods"]
    ]
