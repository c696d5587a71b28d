"""python -m benchmarks.robustness.fuzz_container: reads sparse containers that were damaged at random."""

import tempfile
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from torch import Tensor

from benchmarks.common.command import run_command
from benchmarks.robustness.container_faults import Files, files_of, mutated, read_all, valid_container

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
PER_CONTAINER = 200


@app.command(epilog="Example: python -m benchmarks.robustness.fuzz_container --examples 20000 --seed 1")
def fuzz(
    examples: Annotated[int, typer.Option(min=1, help="Damaged containers to read.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the containers and their damage.")] = 0,
) -> None:
    """Every container must be read or refused; anything else ends the run with a traceback."""
    counts = {"refused": 0, "read in part": 0, "read": 0}
    tensors = {"read": 0, "refused": 0}
    valid = {}
    for number in range(examples):
        # Each example depends on the seed and its number alone, so that it can be made again.
        if number % PER_CONTAINER == 0:
            with tempfile.TemporaryDirectory() as folder:
                valid_container(Random(f"{seed} {number}"), Path(folder))
                valid = files_of(Path(folder))
        matrices = _read(f"{seed} damage {number}", valid)
        if matrices is None:
            counts["refused"] += 1
            continue
        refused = sum(tensor is None for tensor in matrices.values())
        counts["read in part" if refused else "read"] += 1
        tensors["refused"] += refused
        tensors["read"] += len(matrices) - refused
    typer.echo(f"damaged containers tried: {examples} (seed {seed})")
    typer.echo(f"refused when opened:      {counts['refused']}")
    typer.echo(f"some tensors refused:     {counts['read in part']}")
    typer.echo(f"read whole:               {counts['read']}")
    typer.echo(f"tensors read, refused:    {tensors['read']}, {tensors['refused']} of the containers opened")


def _read(seed: str, valid: Files) -> dict[str, Tensor | None] | None:
    done = False
    try:
        matrices = read_all(mutated(Random(seed), valid))
        done = True
    finally:
        if not done:
            typer.echo(f"the damage of seed {seed!r} was neither read nor refused:", err=True)
    return matrices


if __name__ == "__main__":
    run_command(app)
