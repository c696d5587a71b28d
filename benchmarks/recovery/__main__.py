"""python -m benchmarks.recovery: how much of the loss that pruning adds a short training takes back, zeros kept.

Every training gets the same steps over the same windows; its learning rate is the one with the lowest loss on
validation windows, never on the text that is judged on. Writes a section of the results page and the figures as JSON;
work that is done is found again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from benchmarks.common.command import (
    OutOption,
    SeedsOption,
    SetOption,
    SettingsOption,
    TrainingOption,
    run_command,
    write_section,
)
from benchmarks.quality.entries import PAPERS, SETTINGS, Entry
from benchmarks.quality.figures import Bench, Figures
from benchmarks.quality.seeds import difference, runs_of
from benchmarks.recovery.entries import SEEDS, Base, bases
from benchmarks.recovery.page import section
from benchmarks.recovery.reading import made
from benchmarks.recovery.trainings import BUDGET, DATA, Scan, scans
from pruning_core.errors import InputError
from tasks.workspace.params import read_params

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command(epilog="Example: python -m benchmarks.recovery --only sparsegpt-70 --seeds 1 --out /tmp/recovery.md")
def recovery(
    out: OutOption = Path("docs/results.md"),
    settings: SettingsOption = SETTINGS,
    set_: SetOption = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Models, by name or the beginning of it; may be repeated.")
    ] = None,
    seeds: SeedsOption = SEEDS,
    training: TrainingOption = "{}",
) -> None:
    """Compress, train, judge, and write the section."""
    papers, changes = read_params(PAPERS)["variants"], yaml.safe_load(training)
    every_base = bases(papers)
    selected = [one for one in every_base if not only or one.name.startswith(tuple(only))]
    if not selected:
        raise InputError(f"no model begins with {only}; known: {', '.join(one.name for one in every_base)}")
    overrides = [f"@{settings.resolve()}", *(set_ or [])]
    names = tuple({name for one in selected for name in one.trainings})
    rates = scans(Path.cwd(), overrides, papers, names, changes, _say)
    facts = measured(overrides, selected, tuple(range(seeds)), rates, changes)
    write_section(out, "recovery", section(facts), facts)


def measured(
    overrides: list[str],
    models: list[Base],
    seeds: tuple[int, ...],
    rates: Mapping[str, Scan],
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """The figures as JSON; the section is made of them alone."""
    entries = {one.name: one.entries(seeds, rates, changes) for one in models}
    bench = Bench(
        Path.cwd(), overrides, [e for by_training in entries.values() for e in by_training.values()], divergence=False
    )
    dense = bench.dense()
    return {
        "settings": bench.settings(),
        "dense": {"perplexity": dense.perplexity, "mean_loss": float(dense.losses.mean())},
        "training": BUDGET | dict(changes) | {"data": DATA | changes.get("data", {})},
        "rates": {name: scan.facts() for name, scan in rates.items()},
        "models": [
            {
                "name": one.name,
                "title": one.title,
                "recipe": one.recipe,
                "ways": [
                    {"name": way.name, "title": way.title}
                    | _judged(bench, {seed: entries[one.name][way, seed] for seed in seeds}, dense)
                    for way in one.ways
                ],
            }
            for one in models
        ],
    }


def _judged(bench: Bench, entries: Mapping[int, Entry], dense: Figures) -> dict[str, Any]:
    figures = {}
    for seed, entry in entries.items():
        figures[seed] = result = bench.figures(entry)
        _say(f"{entry.name:44} {'overflow' if result.perplexity is None else f'{result.perplexity:10.4g}'}")
    runs = runs_of(figures, dense)
    all_runs = [run | made(bench, bench.model(entry)) for run, entry in zip(runs, entries.values(), strict=True)]
    return {"above_dense": difference(figures, {None: dense}), "runs": all_runs}


def _say(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    run_command(app)
