"""python -m benchmarks.memory: plans and compresses a model of 1.1 billion parameters, and compares plan and run.

What was measured is kept in the folder and not measured again; --fresh begins anew.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.common.command import run_command
from benchmarks.common.launch import QUIET, ROOT
from benchmarks.common.machine import machine
from benchmarks.memory.model import PARAMS, VARIANT, make_model, make_workspace, tinyllama_config
from benchmarks.memory.page import page
from benchmarks.memory.runs import digests, exactly_sparse, resume, run
from pruning_core.calibration.hidden_states import HiddenStates
from pruning_core.checkpoint.model_files import read_config
from pruning_core.compress.block import compress_block
from pruning_core.errors import ComputationError
from pruning_core.model.decoder import Decoder
from pruning_core.settings.recipe import parse_recipe

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
FOLDER = ROOT / ".espalier" / "memory"
aten = torch.ops.aten


@app.command(epilog="Example: python -m benchmarks.memory --resume-check")
def memory(
    folder: Annotated[Path, typer.Option(help="For the model, the workspaces and the raw figures.")] = FOLDER,
    blocks: Annotated[int, typer.Option(min=2, help="Of the model; TinyLlama has 22.")] = 22,
    resume_check: Annotated[
        bool, typer.Option("--resume-check", help="Also kill a second run half way and resume it.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what was measured before.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="The page; default docs/memory.md, or inside the folder for fewer blocks.")
    ] = None,
) -> None:
    """Measure, and write the page."""
    folder = folder.resolve()
    raw = measure(folder, blocks, resume_check, fresh)
    target = out or (ROOT / "docs" if blocks == 22 else folder) / "memory.md"
    target.write_text(page(raw), encoding="utf-8")
    target.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"page       {target}")


def measure(folder: Path, blocks: int, resume_check: bool, fresh: bool) -> dict[str, Any]:
    """All figures, as JSON; each is stored as soon as it is known."""
    store = folder / "runs.json"
    raw = json.loads(store.read_text()) if store.is_file() and not fresh else {}

    def once(name: str, find: Any) -> None:
        if name not in raw:
            typer.echo(f"measuring  {name}")
            raw[name] = find()
            store.write_text(json.dumps(raw, indent=1) + "\n")

    make_model(folder / "model", tinyllama_config(blocks))
    straight = folder / "straight"
    if "run" not in raw:
        make_workspace(straight)
    once("machine", lambda: machine(torch.get_num_threads()))
    once("plan", lambda: planned(straight))
    once("run", lambda: run(straight))
    once("digests", lambda: digests(straight))
    once("exact", lambda: exactly_sparse(straight))
    once("counted", lambda: counted(folder / "model"))
    if resume_check:
        once("resume", lambda: _resumed(make_workspace(folder / "killed"), blocks, raw["digests"]))
    return raw


def planned(workspace: Path) -> dict[str, Any]:
    """What `espalier plan` says in the workspace."""
    command = [sys.executable, "-m", "flows.cli", "plan", VARIANT, "--json"]
    environment = {**QUIET, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ComputationError(f"espalier plan failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def _resumed(workspace: Path, blocks: int, expected: list[str]) -> dict[str, Any]:
    resumption = resume(workspace, blocks)
    return resumption | {"equal": digests(workspace) == expected}


class Products(TorchDispatchMode):
    """Counts the operations of every matrix product that is really computed, in place or not."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = {"products of matrices": 0.0, "Cholesky and triangles": 0.0, "attention": 0.0}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in (aten.mm, aten.addmm, aten.addmm_, aten.bmm, aten.baddbmm):
            self.operations["products of matrices"] += 2 * out.numel() * args[-2].shape[-1]
        elif packet == aten.linalg_cholesky_ex:
            self.operations["Cholesky and triangles"] += len(args[0]) ** 3 / 3
        elif packet == aten.linalg_solve_triangular:
            self.operations["Cholesky and triangles"] += out.shape[-1] * out.shape[-2] ** 2
        elif packet == aten._scaled_dot_product_flash_attention_for_cpu:
            query, key, value = args[:3]
            self.operations["attention"] += _attention(query, key, value) / 2
        return out


def _attention(query: Tensor, key: Tensor, value: Tensor) -> float:
    return 2.0 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def counted(directory: Path) -> dict[str, float]:
    """Operations by kind of the whole compression, counted in its first block on random tokens.

    The columns of a block that the compiled kernel fixes are no matrix products; they are counted as r c B for r rows,
    c columns and blocks of B.
    """
    decoder = Decoder(directory, read_config(directory))
    calibration = PARAMS["calibration"]
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 2048, (calibration["sequences"], calibration["length"]), generator=draw)
    states = HiddenStates.at_entry(decoder, tokens)
    recipe = parse_recipe(VARIANT, PARAMS["variants"][VARIANT])
    decoder.load_block(0)
    for part in states.tokens:
        decoder.calls(part)
    with Products() as seen:
        outcome = compress_block(decoder, 0, states, recipe.method, recipe.propagate)
    block = recipe.method.compensation.block
    fixed = sum(layer.rows * layer.columns * block for layer in outcome.layers)
    operations = {**seen.operations, "columns in the kernel": float(fixed)}
    operations = {name: value * len(decoder) for name, value in operations.items()}
    return operations | {"total": sum(operations.values())}


if __name__ == "__main__":
    run_command(app)
