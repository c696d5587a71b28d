"""python -m benchmarks.studies STUDY: one question each that the papers leave open, with the spread over seeds.

Every study writes a section of the results page, a plot, and its figures as JSON. Work that is done is found again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from benchmarks.common.command import run_command
from benchmarks.common.sections import put_section
from benchmarks.common.spreads import spread_plot
from benchmarks.quality.entries import PAPERS, SETTINGS
from benchmarks.studies import calibration_size, domain, fisher_hessian, fisher_hessian_page, probes, probes_page
from benchmarks.studies.study import StudySettings
from tasks.report.charts import svg
from tasks.workspace.params import read_params

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)

Out = Annotated[Path, typer.Option(help="The page; plot and figures get its name and the study's.")]
Settings = Annotated[
    Path, typer.Option(help="Sections that take the place of those in params.yaml: calibration, evaluation.")
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key on top of that.")]
Seeds = Annotated[int, typer.Option(min=1, help="Draws of the calibration text, and of all else that is drawn.")]
Probes = Annotated[int, typer.Option("--probes", min=1, help="The most Hutchinson probes.")]
Sequences = Annotated[int, typer.Option(min=1, help="Calibration windows that sensitivities are measured on.")]
PAGE = Path("docs/results.md")


@app.command(
    "calibration-size",
    epilog="Example: python -m benchmarks.studies calibration-size --size 4 --size 64 --out /tmp/sizes.md",
)
def run_calibration_size(
    out: Out = PAGE,
    settings: Settings = SETTINGS,
    set_: Set = None,
    seeds: Seeds = 3,
    size: Annotated[list[int] | None, typer.Option(min=1, help="Windows; may be repeated. 4 to 256 without.")] = None,
) -> None:
    """Perplexity against the number of calibration windows, for Wanda and SparseGPT."""
    facts = calibration_size.measured(_study_settings(settings, set_, seeds), size or calibration_size.SIZES)
    _write(out, "calibration-size", facts, calibration_size)


@app.command(
    "probes", epilog="Example: python -m benchmarks.studies probes --probes 16 --sequences 2 --out /tmp/probes.md"
)
def run_probes(
    out: Out = PAGE,
    settings: Settings = SETTINGS,
    set_: Set = None,
    seeds: Seeds = 3,
    most: Probes = probes.PROBES,
    sequences: Sequences = probes.SEQUENCES,
) -> None:
    """The number of Hutchinson probes against the order of the matrices, the allocation and the perplexity."""
    facts = probes.measured(_study_settings(settings, set_, seeds), most, sequences)
    _write(out, "probes", facts, probes_page)


@app.command(
    "fisher-hessian", epilog="Example: python -m benchmarks.studies fisher-hessian --seeds 1 --out /tmp/fisher.md"
)
def run_fisher_hessian(
    out: Out = PAGE,
    settings: Settings = SETTINGS,
    set_: Set = None,
    seeds: Seeds = 3,
    most: Probes = probes.PROBES,
    sequences: Sequences = probes.SEQUENCES,
) -> None:
    """The order of the matrices by Fisher information and by the Hessian's trace, and the perplexity of each."""
    facts = fisher_hessian.measured(_study_settings(settings, set_, seeds), most, sequences)
    _write(out, "fisher-hessian", facts, fisher_hessian_page)


@app.command("domain", epilog="Example: python -m benchmarks.studies domain --file novel.txt --out /tmp/domain.md")
def run_domain(
    out: Out = PAGE,
    settings: Settings = SETTINGS,
    set_: Set = None,
    seeds: Seeds = 3,
    file: Annotated[Path | None, typer.Option(help="One more text to calibrate on, UTF-8.")] = None,
) -> None:
    """Calibration on text of another kind than the model is judged on."""
    facts = domain.measured(_study_settings(settings, set_, seeds), file)
    _write(out, "domain", facts, domain)


def _study_settings(settings: Path, set_: list[str] | None, seeds: int) -> StudySettings:
    overrides = [f"@{settings.resolve()}", *(set_ or [])]
    return StudySettings(
        Path.cwd(), overrides, read_params(PAPERS)["variants"], seeds, lambda line: typer.echo(line, err=True)
    )


def _write(out: Path, study: str, facts: Mapping[str, Any], page: ModuleType) -> None:
    """Section, plot and figures; `page` has section(facts, plot) and panels(facts)."""
    plot = out.with_name(f"{out.stem}-{study}.svg")
    put_section(out, f"studies-{study}", page.section(facts, plot.name))
    plot.write_text(svg(spread_plot(page.panels(facts))), encoding="utf-8")
    plot.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"page       {out}")


if __name__ == "__main__":
    run_command(app)
