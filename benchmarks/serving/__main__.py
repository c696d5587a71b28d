"""python -m benchmarks.serving: what makes a compressed model faster on a processor, and what does not.

A Llama of some 50 million random weights, stored in float16, and what compression makes of it, each run in processes
of its own that take turns with the dense model. Values do not change the work, so no quality is told. Writes
docs/serving.md and the figures beside it.
"""

import contextlib
import importlib.metadata
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from benchmarks.common.command import run_command
from benchmarks.common.launch import ROOT
from benchmarks.common.machine import machine
from benchmarks.common.tables import table
from benchmarks.serving import onnx
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.evaluation import llama_cpp
from pruning_core.evaluation.serving import Load, Served, measure_served
from pruning_core.export import FORMATS
from pruning_core.export.onnx import packages
from pruning_core.export.onnx.blocks import ROUNDED
from pruning_core.export.stored.recognise import weight_bytes
from pruning_core.progress import ignore_progress

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
TOKENIZER = ROOT / "models" / "stdlib-2.8m"
WIDTH, CHANNELS, HEADS, GROUPS, BLOCKS = 768, 2048, 12, 6, 8
SHARES = (0.5, 0.7, 0.8, 0.9)
PROMPT, GENERATED = 64, 16
ENGINES = "benchmarks.serving.engines"
KINDS = ("f16", "q8_0", "q4_0")
LIBRARIES = ("llama-cpp-python", "onnxruntime")

Row = tuple[str, str, Served]
"""Name, title, and what is run."""


@app.command(epilog="Example: python -m benchmarks.serving --rounds 2")
def serving(
    out: Annotated[Path, typer.Option(help="The page; the figures go beside it.")] = Path("docs/serving.md"),
    rounds: Annotated[int, typer.Option(min=1, help="How often each has its turn.")] = 2,
) -> None:
    """Make the models, time them in turn, and write the page."""
    with tempfile.TemporaryDirectory(prefix="espalier-serving-") as folder:
        titles, models = prepared(Path(folder))
        facts: dict[str, Any] = {"machine": machine(torch.get_num_threads()), "titles": titles}
        facts["machine"]["versions"] |= _versions()
        load = Load(prompt=PROMPT, generated=GENERATED, rounds=rounds)

        def report(done: int, total: int) -> None:
            typer.echo(f"{done} of {total}", err=True)

        facts["rows"] = measure_served(models, load, report)
        facts["bytes"] = {name: weight_bytes(one.path) for name, one in models.items()}
    facts["load"] = {"prompt": load.prompt, "generated": load.generated, "rounds": rounds, "repeats": load.repeats}
    out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    out.write_text(page(facts), encoding="utf-8")
    typer.echo(f"page       {out}")


def prepared(folder: Path) -> tuple[dict[str, str], dict[str, Served]]:
    """Name -> title, and name -> what is run, the dense model first."""
    dense = made(folder / "dense")
    half = made(folder / "structured", CHANNELS // 2, HEADS // 2, GROUPS // 2)
    sparse = {share: made(folder / f"sparse-{share}", zeros=share) for share in SHARES}
    rows: list[Row] = [
        ("dense", "dense", Served(dense)),
        ("bfloat16", "dense, bfloat16", _by(dense, "bfloat16")),
        ("int8", "dense, int8 by torch's dynamic quantization", _by(dense, "int8")),
        ("zeros", "90 % zeros, stored densely", Served(sparse[0.9])),
        *(
            (f"csr-{share}", f"{share:.0%} zeros, torch CSR".replace("%", " %"), _by(sparse[share], "csr"))
            for share in SHARES
        ),
        ("half", "structured, half of channels and heads", Served(half)),
        ("half-int8", "the same, int8 by torch's dynamic quantization", _by(half, "int8")),
        *gguf_rows(dense, half),
        *onnx_rows(dense, half),
    ]
    return {name: title for name, title, _ in rows}, {name: served for name, _, served in rows}


def gguf_rows(dense: Path, half: Path) -> list[Row]:
    """Both models as files of llama.cpp; none where it is not installed, which is told."""
    if not llama_cpp.is_installed():
        typer.echo("GGUF is left out: llama-cpp-python is not installed; pip install 'espalier[gguf]'", err=True)
        return []
    conversions = [("dense", "dense", dense, kind) for kind in KINDS]
    conversions += [("half", "structured", half, kind) for kind in KINDS[1:]]
    return [
        (f"{name}-{kind}", f"{title}, GGUF {kind}", Served(written(source, "gguf", kind), "llama.cpp"))
        for name, title, source, kind in conversions
    ]


def onnx_rows(dense: Path, half: Path) -> list[Row]:
    """Both models as ONNX files; none where they cannot be written and run, which is told."""
    if not packages.is_installed():
        typer.echo("ONNX is left out: not all it needs is installed; pip install 'espalier[onnx]'", err=True)
        return []
    rows: list[Row] = []
    for name, title, source in (("dense", "dense", dense), ("half", "structured", half)):
        files = {f"ONNX {kind}": written(source, "onnx", kind) for kind in ("float32", "int8", "int4")}
        dynamic = onnx.to_int8(files["ONNX float32"], source.with_name(f"{source.name}-dynamic"))
        files["ONNX int8 by its dynamic quantization"] = dynamic
        rows += [
            (f"{name}-onnx-{path.name.rpartition('-')[2]}", f"{title}, {kind}", Served(path, "ONNX Runtime"))
            for kind, path in files.items()
            if (name, kind) != ("half", "ONNX float32")
        ]
    return rows


def _versions() -> dict[str, str]:
    """Versions of the engines besides transformers that are installed."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _by(path: Path, engine: str) -> Served:
    return Served(path, f"torch {engine}", module=f"{ENGINES}:{engine}")


def made(path: Path, channels: int = CHANNELS, heads: int = HEADS, groups: int = GROUPS, zeros: float = 0.0) -> Path:
    """A model directory with random weights, `zeros` of those of its linear layers removed."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=channels,
        num_hidden_layers=BLOCKS,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=WIDTH // HEADS,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    for name, weight in model.named_parameters():
        if zeros and "_proj" in name:
            weight.data[torch.rand(weight.shape) < zeros] = 0
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def written(source: Path, form: str, kind: str) -> Path:
    """The model as a file of that format and type."""
    out = source.with_name(f"{source.name}-{form}-{kind}")
    out.mkdir()
    FORMATS.build({"name": form, "type": kind}).write(StoredModel(source), out, ignore_progress)
    return out


def page(facts: Mapping[str, Any]) -> str:
    """Markdown."""
    host, load = facts["machine"], facts["load"]
    parts = [
        "# What is faster on a processor",
        "Generated by `python -m benchmarks.serving`; do not edit. The figures are in the JSON file beside this page.",
        f"{host['date']}; {host['processor']}, {host['cores']} cores, {host['threads']} threads, "
        f"Python {host['python']}, "
        + ", ".join(f"{name} {value}" for name, value in host["versions"].items())
        + f"; load before the run {host['load']:.2f}.",
        f"A Llama of random weights ({BLOCKS} blocks, width {WIDTH}, {CHANNELS} channels, {HEADS} heads), stored in "
        f"float16. Medians with quartiles of {load['rounds'] * load['repeats']} runs, each model in processes of "
        f"its own, taking turns, the dense one first: a prompt of {load['prompt']} tokens, "
        f"{load['generated']} tokens decoded. `of dense` divides the medians. transformers computes in float32.",
        f"ONNX is the model with its cache as inputs and outputs; int8 and int4 have a scale per {ROUNDED} inputs, the "
        "dynamic quantization one per output; all round activations as they come and leave the embedding in 16 bits.",
        "Peak MB is the resident memory of the whole process at its highest while it loads and runs the model at every "
        "batch, the pages of weights files that it maps included; in brackets what Python and its libraries had when "
        "loading began, torch among them, which llama.cpp and ONNX Runtime do not need.",
    ]
    for batch in sorted({row["batch"] for row in facts["rows"]}):
        parts += [f"## {batch} sequence{'s' if batch > 1 else ''} at once", _table(facts, batch)]
    return "\n\n".join(parts) + "\n"


def _table(facts: Mapping[str, Any], batch: int) -> str:
    rows = [row for row in facts["rows"] if row["batch"] == batch]
    dense = rows[0]
    rates = ["prefill, tokens/s", "of dense", "decode, tokens/s", "of dense", "first token, ms"]
    return table(["", "run by", "MB", *rates, "peak MB"], [_cells(facts, row, dense) for row in rows])


def _cells(facts: Mapping[str, Any], row: Mapping[str, Any], dense: Mapping[str, Any]) -> list[str]:
    cells = [facts["titles"][row["model"]], row["engine"], f"{facts['bytes'][row['model']] / 1e6:.0f}"]
    for part in ("prefill", "decode"):
        rate = row[part]
        cells.append(f"{rate['median']:.0f} ({rate['lower_quartile']:.0f} to {rate['upper_quartile']:.0f})")
        cells.append(f"{rate['median'] / dense[part]['median']:.2f}")
    cells.append(f"{1000 * row['first_token']['median']:.0f}")
    return [*cells, f"{row['peak_bytes'] / 1e6:.0f} ({row['before_bytes'] / 1e6:.0f})"]


if __name__ == "__main__":
    run_command(app)
