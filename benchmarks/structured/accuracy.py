"""python -m benchmarks.structured.accuracy: what models with fewer channels and heads still answer.

A held-out task of the model's own domain: which of four continuations is the one that the text has. Writes a section
of the results page and the figures as JSON; work that is done is found again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
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
from benchmarks.common.tables import table
from benchmarks.quality.entries import PAPERS, SETTINGS, Entry, percent
from benchmarks.quality.figures import Bench
from benchmarks.quality.seeds import spread
from benchmarks.recovery.entries import SEEDS
from benchmarks.recovery.trainings import scans
from benchmarks.structured.entries import ADAPTED, FORMS, IMPORTANCES, RATIOS, Way
from pruning_core.errors import InputError
from pruning_core.settings.lm_eval import DOMAIN
from pruning_core.settings.recipe import BASELINE
from tasks.workspace.params import read_params

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
TASK = {"items": 300, "context": 96, "continuation": 24}
CERTAIN = 0.05
"""McNemar's p below which two models are told apart."""


@app.command(epilog="Example: python -m benchmarks.structured.accuracy --seeds 1 --out /tmp/accuracy.md")
def accuracy(
    out: OutOption = Path("docs/results.md"),
    settings: SettingsOption = SETTINGS,
    set_: SetOption = None,
    only: ImportanceOption = None,
    ratio: RatioOption = None,
    seeds: SeedsOption = SEEDS,
    task: Annotated[str, typer.Option(metavar="MAPPING", help="Keys of the task other than its size here.")] = "{}",
    training: TrainingOption = "{}",
) -> None:
    """Make smaller, refit, train, ask, and write the section."""
    selected = [way for way in ways(ratio or RATIOS) if not only or way.importance.startswith(tuple(only))]
    if not selected:
        raise InputError(f"no importance begins with {only}; known: {', '.join(ADAPTED)}")
    changes, lm_eval_task = yaml.safe_load(training), {"name": DOMAIN, **TASK, **yaml.safe_load(task)}
    overrides = [f"@{settings.resolve()}", *(set_ or [])]
    papers = read_params(PAPERS)["variants"]
    rates = scans(Path.cwd(), overrides, papers, ("lora",), changes, lambda line: typer.echo(line, err=True))
    entries = {(way, seed): way.entry(seed, rates, changes) for way in selected for seed in range(seeds)}
    overrides.append(f"evaluation.tasks={json.dumps([lm_eval_task])}")
    facts = {"task": lm_eval_task} | measured(Bench(Path.cwd(), overrides, entries.values(), divergence=False), entries)
    write_section(out, "structured-accuracy", section(facts), facts)


def ways(ratios: list[float] | tuple[float, ...]) -> list[Way]:
    """Every importance, its survivors as they are, refitted, and trained after that."""
    forms = (("bare", ""), ("static", ""), ("static", "lora"))
    return [Way(one, ratio, "uniform", *form) for ratio in ratios for one in ADAPTED for form in forms]


def measured(bench: Bench, entries: Mapping[tuple[Way, int], Entry]) -> dict[str, Any]:
    """The figures as JSON; the section is made of them alone."""
    dense = bench.home.lm_eval_answers(BASELINE).facts
    runs: dict[Way, list[dict[str, Any]]] = {}
    for (way, seed), entry in entries.items():
        scores = bench.pipeline(entry).lm_eval_answers(entry.name).facts["tasks"][DOMAIN]
        runs.setdefault(way, []).append({"seed": seed} | scores)
        typer.echo(f"{entry.name:52} {scores['accuracy']:.4f}", err=True)
    return {
        "settings": bench.settings(),
        "dense": dense["tasks"][DOMAIN],
        "protocol": dense["protocol"],
        "ways": [
            {name: getattr(way, name) for name in ("name", "importance", "ratio", "form", "training")}
            | {"runs": runs_of_way}
            for way, runs_of_way in runs.items()
        ],
    }


def section(facts: Mapping[str, Any]) -> str:
    """Markdown."""
    dense, task = facts["dense"], facts["task"]
    choices = task.get("choices", 4)
    seeds = len(facts["ways"][0]["runs"])
    caption = (
        f"{dense['items']} items of the evaluation text: {task['context']} tokens, then which of {choices} "
        f"continuations of {task['continuation']} tokens is the true one; chance is {100 / choices:.0f} %. Asked by "
        "lm-evaluation-harness. Means over the seeds, in brackets the extremes. Per character: the likelihood of a "
        "continuation divided by its length. Told apart: seeds whose answers to the same items are told apart from the "
        f"dense model's by McNemar's exact test at {CERTAIN:g}."
    )
    dense_accuracy = f"{_percent(dense['accuracy'])} ± {_percent(dense['accuracy_error'])}"
    rows = [["dense", "", "", dense_accuracy, "", "", _percent(dense["accuracy_norm"])]]
    for way in facts["ways"]:
        runs = way["runs"]
        apart = [run["to_dense"]["accuracy"] for run in runs]
        rows.append(
            [
                IMPORTANCES[way["importance"]][0],
                f"{percent(way['ratio'])} %",
                FORMS[way["form"]] + (", then LoRA" if way["training"] else ""),
                spread([100 * run["accuracy"] for run in runs], ".1f"),
                spread([100 * one["difference"] for one in apart], "+.1f"),
                f"{sum(one['p_value'] < CERTAIN for one in apart)} of {len(apart)}",
                f"{100 * fmean(run['accuracy_norm'] for run in runs):.1f}",
            ]
        )
    header = ["importance", "removed", "survivors", "accuracy, %", "to dense", "told apart", "per character, %"]
    return "\n\n".join(
        [
            "# Structured pruning: accuracy on a task of the domain",
            "Generated by `python -m benchmarks.structured.accuracy`; do not edit. "
            f"`{facts['settings']['model']}`, seeds: {seeds}.",
            caption,
            table(header, rows),
        ]
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    run_command(app)
