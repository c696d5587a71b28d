"""python -m benchmarks.stack: prune and quantize together, one after the other and each alone, as files to serve.

Every variant is written in every format that can hold it, read again, and counted in bytes; those that llama.cpp or
narrower matrices may make faster are timed beside the dense model. Writes a section of the results page and figures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.common.command import OutOption, SetOption, SettingsOption, run_command, write_section
from benchmarks.common.machine import machine
from benchmarks.common.tables import table
from benchmarks.quality.entries import PAPERS, SETTINGS, Entry
from benchmarks.quality.figures import Bench, Figures
from benchmarks.stack.entries import entries
from pruning_core.errors import InputError
from pruning_core.evaluation.serving import Load, Served, measure_served
from pruning_core.evaluation.size import model_size
from pruning_core.export.stored.recognise import weight_bytes
from tasks.steps.export import ExportParams, export
from tasks.steps.serve_speed import engine_of
from tasks.store.artifact import Artifact
from tasks.workspace.params import read_params

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
FORMATS: dict[str, dict[str, Any]] = {
    "sparse": {"name": "sparse"},
    "compressed-tensors": {"name": "compressed_tensors"},
    "GPTQ": {"name": "gptq", "checkpoint_format": "gptq_v2"},
}
GGUF = {None: "f16", 8: "q8_0", 4: "q4_0"}
"""Bits of a variant -> the type that holds its integers as they are."""
TIMED = ("small-20", "small-50")


@dataclass(frozen=True)
class Row:
    """The figures of one variant."""

    figures: Figures
    exports: dict[str, Artifact]
    refused: dict[str, str]


@app.command(epilog="Example: python -m benchmarks.stack --rounds 2 --out /tmp/stack.md")
def stack(
    out: OutOption = Path("docs/results.md"),
    settings: SettingsOption = SETTINGS,
    set_: SetOption = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each file has its turn when it is timed.")] = 3,
) -> None:
    """Make the variants, write them, judge and time them, and write the section."""
    variants = entries(read_params(PAPERS)["variants"])
    bench = Bench(Path.cwd(), [f"@{settings.resolve()}", *(set_ or [])], variants)
    rows = [_row(bench, entry) for entry in variants]
    dense = {
        kind: _exported(bench, bench.home.source, {"name": "gguf", "type": kind}) for kind in ("f16", "q8_0", "q4_0")
    }
    facts = {
        "machine": machine(torch.get_num_threads()),
        "dense": {
            "perplexity": bench.dense().perplexity,
            "bytes": weight_bytes(bench.home.source.path),
            "parameters": model_size(bench.home.source.path)["parameters"],
        },
        "rows": [_facts(row) for row in rows],
        "speed": _timed(bench, rows, dense, rounds),
        "settings": bench.settings(),
    }
    write_section(out, "stack", section(facts), facts)


def _exported(bench: Bench, model: Artifact, spec: dict[str, Any]) -> Artifact:
    return bench.context.run(export, ExportParams(format=spec), {"model": model}, f"as {spec['name']}")


def _row(bench: Bench, entry: Entry) -> Row:
    model, exports, refused = bench.model(entry), {}, {}
    bits = next((layer["bits"] for layer in model.facts["layers"] if layer.get("bits")), None)
    for name, spec in (FORMATS | {"GGUF": {"name": "gguf", "type": GGUF[bits]}}).items():
        try:
            exports[name] = _exported(bench, model, spec)
        except InputError as error:
            refused[name] = str(error)
    typer.echo(f"{entry.title:48} {', '.join(exports)}", err=True)
    return Row(bench.figures(entry), exports, refused)


def _facts(row: Row) -> dict[str, Any]:
    figures = row.figures
    return {
        "name": figures.entry.name,
        "title": figures.entry.title,
        "perplexity": figures.perplexity,
        "kl": figures.kl,
        "zeros": figures.zeros,
        "exports": {
            name: {"bytes": exported.facts["file_bytes"], "verified": exported.facts["verified"]}
            for name, exported in row.exports.items()
        },
        "refused": row.refused,
    }


def _timed(bench: Bench, rows: list[Row], dense: Mapping[str, Artifact], rounds: int) -> list[dict[str, Any]]:
    """The dense model first; then what differs in speed: narrower matrices, and GGUF files."""
    models = {"dense": Served(bench.home.source.path)}
    models |= {
        row.figures.entry.title: Served(bench.model(row.figures.entry).path)
        for row in rows
        if row.figures.entry.name in TIMED
    }
    files = {f"dense, GGUF {kind}": exported for kind, exported in dense.items()}
    files |= {f"{row.figures.entry.title}, GGUF": row.exports["GGUF"] for row in rows if "GGUF" in row.exports}
    for title, exported in files.items():
        if engine_of(exported.path) == "llama.cpp":
            models[title] = Served(exported.path, "llama.cpp")
    return measure_served(models, Load(batches=(1,), rounds=rounds))


def section(facts: Mapping[str, Any]) -> str:
    """Markdown."""
    host = facts["machine"]
    parts = [
        "# Prune and quantize",
        "Generated by `python -m benchmarks.stack`; do not edit.",
        "One symmetric grid per row. The joint pass masks and rounds a column at once; the other way prunes, then runs "
        "GPTQ over the pruned model, whose zeros stay. MB are those of the weights files, with masks, scales, padding, "
        "headers and the embeddings, which nothing compresses here; bits are these bytes over the parameters of the "
        "dense model. Every file was read again: sparse comes back bit for bit, and no format loses a zero.",
        _quality(facts),
        "## Speed",
        f"{host['date']}; {host['processor']}, {host['cores']} cores, {host['threads']} threads; load before "
        f"{host['load']:.2f}. One sequence, medians with quartiles; what has zeros or integers and is no GGUF file "
        "runs as fast as the dense model in transformers, which unpacks it.",
        _speed(facts["speed"]),
    ]
    return "\n\n".join(parts)


def _quality(facts: Mapping[str, Any]) -> str:
    dense, names = facts["dense"], [*FORMATS, "GGUF"]
    head = ["", "perplexity", "KL", "zeros", *(f"{name}, MB" for name in names), "bits"]
    rows = [
        [
            "dense",
            f"{dense['perplexity']:.3f}",
            "",
            "",
            *[""] * (len(names) - 1),
            f"{dense['bytes'] / 1e6:.2f}",
            "16.00",
        ]
    ]
    for row in facts["rows"]:
        sizes = [row["exports"][name]["bytes"] if name in row["exports"] else None for name in names]
        shown = ["-" if size is None else f"{size / 1e6:.2f}" for size in sizes]
        bits = 8 * min(size for size in sizes if size is not None) / dense["parameters"]
        zeros = f"{row['zeros']:.1%}".replace("%", " %")
        rows.append([row["title"], f"{row['perplexity']:.3f}", f"{row['kl']:.4f}", zeros, *shown, f"{bits:.2f}"])
    return table(head, rows)


def _speed(rows: list[dict[str, Any]]) -> str:
    dense = rows[0]
    head = ["", "run by", "prefill, tokens/s", "of dense", "decode, tokens/s", "of dense", "peak MB"]
    shown = []
    for row in rows:
        cells = [row["model"], row["engine"]]
        for part in ("prefill", "decode"):
            rate = row[part]
            cells.append(f"{rate['median']:.0f} ({rate['lower_quartile']:.0f} to {rate['upper_quartile']:.0f})")
            cells.append(f"{rate['median'] / dense[part]['median']:.2f}")
        shown.append([*cells, f"{row['peak_bytes'] / 1e6:.0f}"])
    return table(head, shown)


if __name__ == "__main__":
    run_command(app)
