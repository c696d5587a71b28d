"""python -m benchmarks.speed: compresses one model with Espalier, llm-compressor and the published loops, side by side.

Writes a page with the ratios first, and the raw figures as JSON beside it.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.common.command import run_command
from benchmarks.common.floor import minimum_work
from benchmarks.common.launch import ROOT, Launcher
from benchmarks.common.machine import machine
from benchmarks.speed.damage import logit_errors, qualities
from benchmarks.speed.llmcompressor_environment import interpreter, versions
from benchmarks.speed.page import page
from benchmarks.speed.rounds import Contest
from benchmarks.speed.settings import FULL, QUICK, SETTINGS, Scale
from benchmarks.speed.workloads import Workload, random_workload, shipped_workload, warm_workload
from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.checkpoint.model_files import read_config

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
FOLDER = ROOT / ".espalier" / "benchmarks"


@app.command(epilog="Example: python -m benchmarks.speed --repeats 5")
def speed(
    quick: Annotated[
        bool, typer.Option(help="Toy sizes, one round, all in one process: only shows that it runs.")
    ] = False,
    repeats: Annotated[int | None, typer.Option(min=1, help="Rounds; default 3.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of every contestant; default: the machine's cores, quick: 1.")
    ] = None,
    peer: Annotated[bool, typer.Option(help="Whether llm-compressor takes part; not in a quick run.")] = True,
    peer_environment: Annotated[
        Path | None, typer.Option(help="Its virtual environment; default: made once, beside this module.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="For models, tokens and results; default: under .espalier/benchmarks.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The page; default docs/benchmarks.md, for a quick run inside the folder.")
    ] = None,
) -> None:
    """Measure, and write the page."""
    scale = QUICK if quick else FULL
    folder = (folder or FOLDER / ("quick" if quick else "full")).resolve()
    target = out or (folder if quick else ROOT / "docs") / "benchmarks.md"
    python = interpreter(peer_environment) if peer and not quick else None
    launcher = Launcher(folder, threads or (1 if quick else torch.get_num_threads()), not quick, python)
    raw = measure(launcher, scale, repeats or scale.repeats, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(raw), encoding="utf-8")
    target.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"page       {target}")


def measure(launcher: Launcher, scale: Scale, repeats: int, folder: Path) -> dict[str, Any]:
    """All figures of one run, as JSON."""
    facts = machine(launcher.threads)
    workload = random_workload(folder, scale)
    timed = Contest(launcher, scale, workload, warm_workload(folder), folder, typer.echo)
    rates, records = [timed.rate()], []
    for repeat in range(repeats):
        records += timed.round(repeat)
        rates.append(timed.rate())
    sweep = launcher.run({"kind": "sweep", "size": scale.sweep_size, "repeats": repeats})
    shipped = shipped_workload(folder, scale)
    Contest(launcher, scale, shipped, None, folder, typer.echo).round(0)
    reference = "llmcompressor" if launcher.peer else "published"
    config = read_config(workload.model)
    checkpoint = Checkpoint(workload.model)
    return {
        "machine": facts,
        "fresh": launcher.fresh,
        "peer": {"versions": versions(launcher.peer) if launcher.peer else {}},
        "scale": asdict(scale),
        "parameters": sum(torch.Size(checkpoint.shape(name)).numel() for name in checkpoint.names()),
        "repeats": repeats,
        "contestants": list(timed.contestants),
        "work": {s.name: minimum_work(config, scale.sequences, scale.length, s.needs).facts() for s in SETTINGS},
        "rates": rates,
        "records": records,
        "sweep": sweep,
        "reference": reference,
        "quality": {
            "shipped": qualities(shipped, _results(timed, shipped), _references(timed, reference)),
            "random": logit_errors(workload, _results(timed, workload)),
        },
    }


def _results(contest: Contest, workload: Workload) -> dict[str, Path]:
    """ "setting contestant" -> where that contestant wrote."""
    return {
        f"{setting.name} {contestant}": contest.out(contestant, setting.name, workload)
        for setting in SETTINGS
        for contestant in contest.contestants
    }


def _references(contest: Contest, reference: str) -> dict[str, str]:
    """ "setting contestant" -> "setting reference", for all others."""
    others = [contestant for contestant in contest.contestants if contestant != reference]
    return {f"{setting.name} {other}": f"{setting.name} {reference}" for setting in SETTINGS for other in others}


if __name__ == "__main__":
    run_command(app)
