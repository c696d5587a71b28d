"""python -m benchmarks.speed.gpu: times the core on a GPU, with a model of LLaMA-7B's shape and random weights.

SparseGPT 50 %, Wanda 50 % and GPTQ W4 from files to compressed weights in memory, by phase; then the column sweep,
kernel against eager. Writes a page and the raw figures as JSON beside it. Without a GPU `--toy` shows that it runs.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import LlamaConfig

from benchmarks.common import sweep
from benchmarks.common.command import run_command
from benchmarks.common.launch import ROOT
from benchmarks.common.machine import machine
from benchmarks.common.summary import Spread
from benchmarks.memory.model import make_model
from benchmarks.speed.settings import SETTINGS
from pruning_core.calibration.hidden_states import HiddenStates
from pruning_core.compress.block import compress_block
from pruning_core.compress.method import Method
from pruning_core.errors import InputError
from pruning_core.model.decoder import Decoder
from pruning_core.settings.method import build_method

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
LLAMA_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
TOY = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
PHASES = ("enter", "load", "compress")


@app.command(epilog="Example: python -m benchmarks.speed.gpu --repeats 3")
def gpu(
    toy: Annotated[bool, typer.Option(help="Toy sizes on the CPU: only shows that it runs.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds.")] = 3,
    blocks: Annotated[int | None, typer.Option(min=1, help="Of the model; default: all 32.")] = None,
    sequences: Annotated[int, typer.Option(min=1, help="Of 2,048 tokens.")] = 128,
    folder: Annotated[
        Path | None, typer.Option(help="For the model, 14 GB; default: under .espalier/benchmarks.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The page; default docs/gpu.md, for toy sizes inside the folder.")
    ] = None,
) -> None:
    """Measure, and write the page."""
    if not toy and not torch.cuda.is_available():
        raise InputError("torch finds no CUDA device; run this on a machine with one, or add --toy to see that it runs")
    folder = (folder or ROOT / ".espalier" / "benchmarks" / ("gpu-toy" if toy else "gpu")).resolve()
    shape = TOY if toy else LLAMA_7B
    config = LlamaConfig(**shape | ({"num_hidden_layers": blocks} if blocks else {}), tie_word_embeddings=False)
    raw = measure(folder, config, torch.device("cpu" if toy else "cuda"), repeats, 4 if toy else sequences)
    target = out or (folder if toy else ROOT / "docs") / "gpu.md"
    target.write_text(page(raw), encoding="utf-8")
    target.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"page       {target}")


def measure(folder: Path, config: LlamaConfig, device: torch.device, repeats: int, sequences: int) -> dict[str, Any]:
    """All figures as JSON: seconds by method, round and phase; peak bytes on the device; the sweep's own figures."""
    parameters = make_model(folder / "model", config)
    length = config.max_position_embeddings
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (sequences, length), generator=draw)
    runs: dict[str, list[dict[str, float]]] = {}
    for turn in range(repeats + 1):
        for setting in SETTINGS:
            method = build_method(setting.espalier, device=device)
            seconds = compress(folder / "model", config, method, tokens, device)
            label = f"round {turn}" if turn else "warm"
            typer.echo(f"{label:10} {setting.title}: {seconds['all']:.2f} s", err=True)
            # The first round compiles kernels and fills the file cache.
            if turn > 0:
                runs.setdefault(setting.title, []).append(seconds)
    size = 256 if device.type == "cpu" else 4096
    return {
        "machine": machine(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "parameters": parameters,
        "sequences": sequences,
        "length": length,
        "repeats": repeats,
        "runs": runs,
        "sweep": sweep.measure(size, repeats, device, lambda line: typer.echo(line, err=True)),
    }


def compress(
    model: Path, config: LlamaConfig, method: Method, tokens: torch.Tensor, device: torch.device
) -> dict[str, float]:
    """Seconds of each phase of one run with true-sequential propagation in bfloat16, and the peak of device memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = dict.fromkeys(PHASES, 0.0)
    start = mark = _now(device)

    def lap(phase: str) -> None:
        nonlocal mark
        now = _now(device)
        seconds[phase] += now - mark
        mark = now

    decoder = Decoder(model, config, device=device, dtype=torch.bfloat16)
    states = HiddenStates.at_entry(decoder, tokens)
    lap("enter")
    for index in range(len(decoder)):
        decoder.load_block(index)
        lap("load")
        compress_block(decoder, index, states, method, "compressed", advance=index + 1 < len(decoder))
        decoder.drop_block(index)
        lap("compress")
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return seconds | {"all": mark - start, "peak_bytes": peak}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def page(raw: dict[str, Any]) -> str:
    """The page in Markdown."""
    lines = [
        "# On a GPU",
        "",
        "Made by `python -m benchmarks.speed.gpu`. "
        f"{raw['device']}, torch {raw['machine']['versions']['torch']}; a Llama of {raw['parameters'] / 1e9:.2f} "
        f"billion random bfloat16 weights, {raw['sequences']} x {raw['length']} tokens, true-sequential propagation, "
        f"{raw['repeats']} rounds after one to warm up: median seconds [lowest, highest].",
        "",
        "| method | whole run | entering states | loading blocks | forwards and solving | peak device memory |",
        "|---|---|---|---|---|---|",
    ]
    for title, runs in raw["runs"].items():
        cells = [_spread([run[phase] for run in runs]) for phase in ("all", *PHASES)]
        peak = max(run["peak_bytes"] for run in runs) / 1e9
        lines.append(f"| {title} | {' | '.join(cells)} | {peak:.1f} GB |")
    lines += ["", "The column sweep alone:", "", "```", sweep.table(raw["sweep"]), "```", ""]
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    spread = asdict(Spread.of(values))
    return f"{spread['median']:.2f} [{spread['low']:.2f}, {spread['high']:.2f}]"


if __name__ == "__main__":
    run_command(app)
