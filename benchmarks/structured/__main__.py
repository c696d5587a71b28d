"""python -m benchmarks.structured: models with fewer channels and heads, by every importance, refitted and trained.

Every importance at two sizes, as it is and with the readers refitted by least squares; the better ones with widths
that differ from block to block, and with a short training after. Tells whether fusing fine and coarse estimates, as
HyWIA does, is better than the better of the two. Writes a section of the results page and the figures as JSON; work
that is done is found again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from benchmarks.common.command import (
    ImportanceOption,
    OutOption,
    RatioOption,
    SeedsOption,
    SetOption,
    SettingsOption,
    TrainingOption,
    run_command,
    write_section,
)
from benchmarks.quality.entries import PAPERS, SETTINGS
from benchmarks.quality.figures import Bench, Figures
from benchmarks.quality.seeds import difference, runs_of
from benchmarks.recovery.entries import SEEDS
from benchmarks.recovery.reading import made
from benchmarks.recovery.trainings import BUDGET, DATA, Scan, scans
from benchmarks.structured.entries import IMPORTANCES, PEER, RATIOS, Way, ways
from benchmarks.structured.fusion import fusions
from benchmarks.structured.page import section
from pruning_core.errors import InputError
from pruning_core.evaluation.size import model_size
from tasks.workspace.params import read_params

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
HYWIA = "probes-and-prior"
FiguresByWay = Mapping[Way, Mapping[int, Figures]]


@app.command(epilog="Example: python -m benchmarks.structured --only taylor --seeds 1 --out /tmp/structured.md")
def structured(
    out: OutOption = Path("docs/results.md"),
    settings: SettingsOption = SETTINGS,
    set_: SetOption = None,
    only: ImportanceOption = None,
    ratio: RatioOption = None,
    seeds: SeedsOption = SEEDS,
    name: Annotated[str, typer.Option(help="Of a section of its own, for a part of the importances.")] = "",
    training: TrainingOption = "{}",
) -> None:
    """Make smaller, refit, train, judge, and write the section."""
    selected = [way for way in ways(tuple(ratio or RATIOS)) if not only or way.importance.startswith(tuple(only))]
    if not selected:
        raise InputError(f"no importance begins with {only}; known: {', '.join(IMPORTANCES)}")
    papers, changes = read_params(PAPERS)["variants"], yaml.safe_load(training)
    overrides = [f"@{settings.resolve()}", *(set_ or [])]
    names = tuple({way.training for way in selected if way.training})
    rates = scans(Path.cwd(), overrides, papers, names, changes, _say) if names else {}
    facts = {"name": name} | measured(overrides, selected, tuple(range(seeds)), rates, changes)
    called = f"structured-{name}" if name else "structured"
    write_section(out, called, section(facts), facts)


def measured(
    overrides: list[str],
    selected: list[Way],
    seeds: tuple[int, ...],
    rates: Mapping[str, Scan],
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """The figures as JSON; the section is made of them alone."""
    entries = {(way, seed): way.entry(seed, rates, changes) for way in selected for seed in seeds}
    bench = Bench(Path.cwd(), overrides, entries.values(), divergence=False)
    dense, figures = bench.dense(), {}
    for (way, seed), entry in entries.items():
        result = figures.setdefault(way, {})[seed] = bench.figures(entry)
        _say(f"{entry.name:52} {'overflow' if result.perplexity is None else f'{result.perplexity:10.4g}'}")
    recovered = {way: [made(bench, bench.model(entries[way, seed])) for seed in seeds] for way in selected}
    size = model_size(bench.home.source.path)
    return {
        "settings": bench.settings(),
        "dense": {"perplexity": dense.perplexity, "mean_loss": float(dense.losses.mean())}
        | {name: size[name] for name in ("parameters", "file_bytes")},
        "training": BUDGET | dict(changes) | {"data": DATA | changes.get("data", {})},
        "rates": {name: scan.facts() for name, scan in rates.items()},
        "ways": [
            {name: getattr(way, name) for name in ("name", "importance", "ratio", "mode", "form", "training")}
            | {"title": IMPORTANCES[way.importance][0]}
            | {"runs": [run | more for run, more in zip(runs_of(figures[way], dense), recovered[way], strict=True)]}
            | {"above_dense": difference(figures[way], {None: dense})}
            | {"above_bare": _above(figures, way, way.at(form="bare", training=""))}
            | {"above_even": _above(figures, way, way.at(mode="uniform"))}
            for way in selected
        ],
        "fusions": fusions(figures),
        "peers": [
            {"ratio": way.ratio, "form": way.form, "mode": way.mode, "above": above}
            for way in selected
            if way.importance == HYWIA and not way.training and way.form in ("bare", "static")
            for above in [_above(figures, way, way.at(importance=PEER))]
            if above
        ],
    }


def _above(figures: FiguresByWay, way: Way, other: Way) -> dict[str, Any] | None:
    """The loss of a way above another's; None where that was not asked for or is the same."""
    return None if other == way or other not in figures else difference(figures[way], figures[other])


def _say(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    run_command(app)
