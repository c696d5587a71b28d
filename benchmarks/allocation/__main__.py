"""python -m benchmarks.allocation: who should decide where to prune, at equal real sparsity and with the same pruner.

Every allocation, from uniform to searched, for Wanda and SparseGPT at several budgets, with the text that calibrates
and searches drawn anew for every seed; then the scores of the sweep under a uniform and a mixed allocation. Writes a
section of the results page and the figures as JSON; work that is done is found again.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from benchmarks.allocation.entries import SEEDS, Ladder, ladders, saliencies
from benchmarks.allocation.page import raw, section
from benchmarks.common.command import OutOption, SetOption, SettingsOption, run_command, write_section
from benchmarks.quality.entries import PAPERS, SETTINGS
from benchmarks.quality.figures import Bench, Figures
from pruning_core.errors import InputError
from tasks.workspace.params import read_params

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
MIXED_AT = 0.7


@app.command(epilog="Example: python -m benchmarks.allocation --only sparsegpt-70 --seeds 1 --out /tmp/ladder.md")
def ladder(
    out: OutOption = Path("docs/results.md"),
    name: Annotated[str, typer.Option(help="What the model is called in the section and in the JSON file.")] = "",
    settings: SettingsOption = SETTINGS,
    set_: SetOption = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Ladders, by name or the beginning of it; may be repeated.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Draws of the calibration and search text.")] = len(SEEDS),
    search: Annotated[
        str, typer.Option(metavar="MAPPING", help="Settings of the search other than its defaults.")
    ] = "{}",
) -> None:
    """Allocate, compress, judge, and write the section."""
    papers, draws = read_params(PAPERS)["variants"], tuple(range(seeds))
    every_ladder = [*ladders(papers, draws, yaml.safe_load(search)), *saliencies(papers, MIXED_AT, draws)]
    selected = [one for one in every_ladder if not only or one.name.startswith(tuple(only))]
    if not selected:
        raise InputError(f"no ladder begins with {only}; known: {', '.join(one.name for one in every_ladder)}")
    overrides = [f"@{settings.resolve()}", *(set_ or [])]
    bench = Bench(
        Path.cwd(), overrides, [entry for one in selected for entry in one.entries.values()], divergence=False
    )
    dense = bench.dense()
    figures = {one.name: _measured(bench, one) for one in selected}
    searches = {one.name: _searches(bench, one) for one in selected}
    called = name or Path(bench.settings()["model"]).name
    facts = raw(called, bench.settings(), dense, selected, figures, searches)
    write_section(out, f"ladder-{called}", section(facts), facts)


def _measured(bench: Bench, ladder: Ladder) -> dict[tuple[str, int], Figures]:
    results = {}
    for place, entry in ladder.entries.items():
        results[place] = figures = bench.figures(entry)
        shown = "overflow" if figures.perplexity is None else f"{figures.perplexity:10.4g}"
        typer.echo(f"{entry.name:40} {shown}", err=True)
    return results


def _searches(bench: Bench, ladder: Ladder) -> list[dict[str, Any]]:
    """Figures of each seed's search: generations, tokens, share of the forwards saved, fitness of the starts."""
    return [
        {"seed": seed} | bench.pipeline(entry).allocation(entry.name).facts["search"]
        for (rung, seed), entry in ladder.entries.items()
        if rung == "search"
    ]


if __name__ == "__main__":
    run_command(app)
