"""python -m benchmarks.quality: every one-shot method on one model, judged on the same held-out windows.

Writes a section of the results page with tables and a reading of them, a plot, and the figures as JSON. The work is
done by the steps of the pipeline and kept in .espalier: a second run, and one that was stopped, find what is there.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.common.command import SetOption, SettingsOption, run_command
from benchmarks.common.sections import put_section
from benchmarks.quality.entries import METHODS, PAPERS, SETTINGS, Group, groups
from benchmarks.quality.figures import Bench, Results, measured
from benchmarks.quality.page import page, raw
from pruning_core.errors import InputError
from tasks.report.charts import LinePanel, line_chart, svg
from tasks.workspace.params import read_params

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT = 392
"""Of the plot, in pixels."""
Lines = dict[str, list[tuple[float, float]]]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command(epilog="Example: python -m benchmarks.quality --only joint --out /tmp/joint.md")
def quality(
    out: Annotated[Path, typer.Option(help="The page; plot and figures get its name.")] = Path("docs/results.md"),
    settings: SettingsOption = SETTINGS,
    set_: SetOption = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A group, by name or the beginning of it; may be repeated.")
    ] = None,
) -> None:
    """Compress, judge, and write the section."""
    selected = select_groups(groups(read_params(PAPERS)["variants"]), only)
    overrides = [f"@{settings.resolve()}", *(set_ or [])]
    bench = Bench(Path.cwd(), overrides, [entry for group in selected for entry in group.entries])
    results = measured(bench, selected, lambda line: typer.echo(line, err=True))
    out.parent.mkdir(parents=True, exist_ok=True)
    plot = out.with_suffix(".svg")
    drawn = lines(results)
    if drawn:
        plot.write_text(svg(drawing(drawn, results.dense.perplexity)), encoding="utf-8")
    put_section(out, "methods", page(results, plot.name if drawn else None))
    out.with_suffix(".json").write_text(json.dumps(raw(results), indent=1) + "\n", encoding="utf-8")
    typer.echo(f"page       {out}")


def select_groups(every_group: list[Group], only: list[str] | None) -> list[Group]:
    """The groups whose name begins with one of the words; all without words.

    Raises:
        InputError: a word that no group begins with.
    """
    for word in only or []:
        if not any(group.name.startswith(word) for group in every_group):
            raise InputError(f"no group begins with {word!r}; known: {', '.join(group.name for group in every_group)}")
    return [group for group in every_group if not only or group.name.startswith(tuple(only))]


def drawing(drawn: Lines, dense: float | None) -> "Figure":
    """Perplexity against sparsity, and the dense model's as a line across."""
    level = ("dense", dense) if dense else None
    return line_chart(
        [LinePanel("", "sparsity of the prunable weights", "perplexity", drawn, level, shares="x", log=True)], HEIGHT
    )


def lines(results: Results) -> Lines:
    """Title of a method -> (zeros, perplexity) at each unstructured sparsity; overflowed perplexities are left out."""
    drawn: Lines = {title: [] for _, title in METHODS.values()}
    for group in results.groups:
        if group.name.startswith("unstructured"):
            for figures in results.of(group):
                if figures.perplexity is not None:
                    drawn[figures.entry.title].append((figures.zeros, figures.perplexity))
    return {title: points for title, points in drawn.items() if points}


if __name__ == "__main__":
    run_command(app)
