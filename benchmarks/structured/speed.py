"""python -m benchmarks.structured.speed: how fast a model runs before and after channels and heads went, dense first.

All models take turns in every round, on a machine that should do nothing else. Writes a section of the results page
and the figures as JSON.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.common.command import OutOption, RatioOption, SetOption, SettingsOption, run_command
from benchmarks.common.machine import machine
from benchmarks.common.sections import put_section
from benchmarks.common.summary import Spread, ratio
from benchmarks.common.tables import spread, table
from benchmarks.quality.entries import SETTINGS, percent
from benchmarks.quality.figures import Bench
from benchmarks.structured.entries import IMPORTANCES, MODES, PEER, RATIOS, Way
from pruning_core.evaluation.size import model_size
from pruning_core.evaluation.speed import measure_speed
from pruning_core.source import load_model

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
DENSE = "dense"
BATCHES = (1, 16)
PROMPT, GENERATED = 256, 64
BUSY = 0.5
"""Other work of so many processors makes figures rough."""


@app.command(epilog="Example: python -m benchmarks.structured.speed --rounds 7")
def speed(
    out: OutOption = Path("docs/results.md"),
    settings: SettingsOption = SETTINGS,
    set_: SetOption = None,
    ratio: RatioOption = None,
    rounds: Annotated[int, typer.Option(min=1, help="In each of which every model is measured once.")] = 7,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = PROMPT,
    generated: Annotated[int, typer.Option(min=1, help="Tokens that follow it.")] = GENERATED,
) -> None:
    """Make the models smaller, measure them in turn, and write the section."""
    ways = [Way(PEER, one, mode, "static") for one in ratio or RATIOS for mode in MODES]
    facts = measured([f"@{settings.resolve()}", *(set_ or [])], ways, rounds, prompt, generated)
    put_section(out, "structured-speed", section(facts))
    out.with_name(f"{out.stem}-structured-speed.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"page       {out}")


def measured(overrides: list[str], ways: list[Way], rounds: int, prompt: int, generated: int) -> dict[str, Any]:
    """The figures as JSON: per model its size, and per batch and round the tokens per second."""
    entries = {way: way.entry(0, {}, {}) for way in ways}
    bench = Bench(Path.cwd(), overrides, entries.values(), divergence=False)
    paths = {DENSE: bench.home.source.path} | {way.name: bench.model(entry).path for way, entry in entries.items()}
    # Before anything of this command runs: its own work is no other work.
    facts = machine(torch.get_num_threads())
    models = {name: load_model(path, trust_remote_code=bench.home.trust) for name, path in paths.items()}
    titles = {DENSE: DENSE} | {way.name: f"{percent(way.ratio)} %, {MODES[way.mode][0]}" for way in ways}
    rates: dict[str, list[dict[str, Any]]] = {name: [] for name in models}
    for number in range(rounds):
        for name, model in models.items():
            for batch in BATCHES:
                known = measure_speed(model, prompt=prompt, generated=generated, batch=batch, repeats=3)
                found = {"prefill": known.prefill.median, "decode": known.decode.median}
                rates[name].append({"round": number, "batch": batch, **found})
        typer.echo(f"round {number + 1} of {rounds}", err=True)
    return {
        "machine": facts,
        "importance": IMPORTANCES[PEER][0],
        "prompt": prompt,
        "generated": generated,
        "rounds": rounds,
        "models": [
            {"name": name, "title": titles[name], "rates": rates[name]}
            | {key: value for key, value in model_size(paths[name]).items() if key in ("parameters", "file_bytes")}
            for name in models
        ],
    }


def section(facts: Mapping[str, Any]) -> str:
    """Markdown."""
    own = facts["machine"]
    told = (
        f"{own['date']}; {own['processor']}, {own['cores']} cores, {own['threads']} threads, Python {own['python']}, "
        + ", ".join(f"{name} {value}" for name, value in own["versions"].items())
        + f"; load before the run {own['load']:.2f}."
    )
    if own["load"] > BUSY:
        told += " **Other work ran on the machine: take all figures as rough.**"
    caption = (
        f"Tokens per second in float32: prefill of {facts['prompt']} tokens and {facts['generated']} tokens decoded "
        f"after it, for 1 and for {BATCHES[1]} sequences at once. Medians over {facts['rounds']} rounds with the "
        "extremes in brackets; all models take turns in every round, the dense one first. Ratios are taken within the "
        f"rounds. Widths are those of {facts['importance']}; which channels went changes no speed."
    )
    parts = [
        "# Structured pruning: speed and size",
        "Generated by `python -m benchmarks.structured.speed`; do not edit.",
    ]
    parts += [told, caption]
    for batch in BATCHES:
        parts += [f"## {batch} sequence{'s' if batch > 1 else ''} at once", _table(facts, batch)]
    return "\n\n".join(parts)


def _table(facts: Mapping[str, Any], batch: int) -> str:
    dense, rows = facts["models"][0], []
    for model in facts["models"]:
        cells = []
        for phase in ("prefill", "decode"):
            own, base = (_rates(one, batch, phase) for one in (model, dense))
            cells.append(spread(Spread.of(own.values()), 0))
            cells.append("" if model is dense else spread(ratio(own, base), 2))
        rows.append([model["title"], f"{model['parameters']:,}", f"{model['file_bytes']:,}", *cells])
    return table(["", "parameters", "bytes", "prefill", "of dense", "decode", "of dense"], rows)


def _rates(model: Mapping[str, Any], batch: int, phase: str) -> dict[int, float]:
    return {one["round"]: one[phase] for one in model["rates"] if one["batch"] == batch}


if __name__ == "__main__":
    run_command(app)
