"""python -m benchmarks.robustness: writes the figures of `make chaos` into docs/reliability.md."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common.command import run_command
from benchmarks.common.sections import put_section
from pruning_core.errors import InputError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
TITLES = {
    "kill": "SIGKILL at random instants of a sweep, then the same command",
    "kill-chain": "SIGKILL again and again until a run reaches its end",
    "crowd-2": "2 flows and `dvc repro` over one store",
    "crowd-3": "3 flows and `dvc repro`",
    "crowd-4": "4 flows and `dvc repro`",
    "disk": "disk full",
    "file-size": "files may not grow",
    "damage": "stored results damaged",
    "rot": "bits changed beneath the file system",
    "mlflow-locked-briefly": "MLflow's database locked for 5 s",
    "mlflow-locked": "MLflow's database locked for longer",
    "mlflow-read-only": "MLflow's database read-only",
    "mlflow-damaged": "MLflow's database cut short",
    "mlflow-absent": "MLflow's database absent",
    "mlflow-gone": "MLflow's database removed during a run",
    "server-temporary": "Prefect's temporary server killed during a run",
    "server-up": "the server of `espalier up` killed during a run",
    "clock": "clock set by a day and a year, back and forth",
    "clocks+1day": "two clocks over one store, a day ahead",
    "clocks-1day": "two clocks over one store, a day behind",
}


@app.command(epilog="Example: python -m benchmarks.robustness")
def reliability(
    out: Annotated[Path, typer.Option(help="The page; the figures lie beside it.")] = Path("docs/reliability.md"),
) -> None:
    """Write the section of the figures."""
    figures = out.with_suffix(".json")
    if not figures.is_file():
        raise InputError(f"{figures} is not there; make chaos writes it")
    put_section(out, "measured", section(json.loads(figures.read_text(encoding="utf-8"))))
    typer.echo(f"page       {out}")


def section(figures: dict[str, Any]) -> str:
    """The tables, from the figures alone."""
    scenarios, machine = figures["scenarios"], figures["machine"]
    measured = [name for name in TITLES if name in scenarios]
    rows = [f"| {TITLES[name]} | {scenarios[name]['line']} |" for name in measured]
    seeds = ", ".join(map(str, sorted({scenarios[name]["seed"] for name in measured})))
    parts = [
        "## Measured",
        f"On {machine['cores']} cores ({machine['processor']}), {machine['date']}, beside other work; seed {seeds}.",
        "\n".join(["| fault | what came of it |", "|---|---|", *rows]),
    ]
    if missing := [title for name, title in TITLES.items() if name not in scenarios]:
        parts.append(f"Not run: {'; '.join(missing)}.")
    if "kill" in scenarios:
        parts.append(kills(scenarios["kill"]))
    return "\n\n".join(parts)


def kills(scenario: dict[str, Any]) -> str:
    """Each kill of the first row: when, in what, and what it cost."""
    where = Counter(scenario["where"])
    fell = ", ".join(f"{number} in {at}" if " " not in at else f"{number} {at}" for at, number in where.most_common())
    rows = [
        f"| {one['instant']:.1f} | {one['manner']} | {one['at']} | {one['lost']:.2f} | {one['again']:.1f} |"
        for one in scenario["kills"]
    ]
    head = ["| after, s | killed | in | work lost, s | next command, s |", "|---:|---|---|---:|---:|"]
    return (
        f"The kills one by one. An undisturbed sweep takes {scenario['sweep_seconds']:.1f} s, of which its steps take "
        f"{scenario['step_seconds']:.1f} s. They fell: {fell}. Commands that share a server begin with their imports "
        "done; the others import, start a server and migrate its database first.\n\n" + "\n".join([*head, *rows])
    )


if __name__ == "__main__":
    run_command(app)
