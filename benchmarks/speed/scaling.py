"""python -m benchmarks.speed.scaling: what two workers on one machine save, at equal digests.

Every command runs in a workspace of its own with an empty store, each worker on one thread. What is told is the time of
the whole command, starts and imports included; alone and side by side alternate.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from benchmarks.common.command import run_command
from benchmarks.common.launch import QUIET, ROOT
from benchmarks.common.machine import machine
from benchmarks.common.sections import put_section
from pruning_core.errors import ComputationError
from tasks.workspace.params import read_params

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
WORKERS = 2
SPARSITIES = (0.4, 0.5, 0.6, 0.7)
CALIBRATED = "sparsegpt-50"
PRODUCTS = """
import time, torch
torch.set_num_threads(1)
a = torch.randn(1024, 1024)
for _ in range(5): a @ a
begun = time.perf_counter()
for _ in range(200): a @ a
print(time.perf_counter() - begun)
"""
NEEDED = {"dask": "prefect_dask", "ray": "prefect_ray"}


@dataclass(frozen=True)
class Job:
    """A command that is timed: arguments of `python -m`, and the name of the one that does its work alone."""

    title: str
    arguments: tuple[str, ...]
    alone: str | None = None


def jobs() -> dict[str, Job]:
    """Who does the same work, four variants or the calibration of one; runners that are not installed are left out."""
    compare = ("flows.cli", "compare", "--json")
    prune = ("flows.cli", "step", "prune", CALIBRATED, "--set", f"compute.shards={WORKERS}")
    launched = ("torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}", "-m")
    kinds = [kind for kind in ("processes", "dask", "ray") if kind not in NEEDED or find_spec(NEEDED[kind])]
    return {
        "variants": Job("four variants, one after another", compare),
        **{
            f"variants-{kind}": Job(
                f"the same, {WORKERS} workers: {kind}",
                (*compare, "--set", f"compute.variants={{name: {kind}, count: {WORKERS}}}"),
                "variants",
            )
            for kind in kinds
        },
        "calibration": Job(f"one variant in {WORKERS} shards, one process", prune),
        "calibration-torchrun": Job(f"the same, torchrun with {WORKERS}", (*launched, *prune), "calibration"),
    }


@app.command(epilog="Example: python -m benchmarks.speed.scaling --rounds 1 --out /tmp/scaling.md")
def scaling(
    out: Annotated[Path, typer.Option(help="The page; the figures go beside it.")] = Path("docs/scaling.md"),
    rounds: Annotated[int, typer.Option(min=1, help="How often each command runs.")] = 3,
    sequences: Annotated[int, typer.Option(min=2, help="Calibration windows of 256 tokens.")] = 128,
) -> None:
    """Time, compare digests, and write the section."""
    every_job, seconds, digests = jobs(), {}, {}
    for _ in range(rounds):
        for name, job in every_job.items():
            took, result = run(job, sequences)
            seconds.setdefault(name, []).append(took)
            digests.setdefault(name, set()).add(json.dumps(result, sort_keys=True))
            typer.echo(f"{name:24} {took:7.1f} s", err=True)
    if unlike := [
        name for name, job in every_job.items() if digests[name] != digests[job.alone or name] or len(digests[name]) > 1
    ]:
        raise ComputationError(f"digests differ from those of the work done alone: {', '.join(unlike)}")
    facts = {
        "machine": machine(1),
        "sequences": sequences,
        "rounds": rounds,
        "ceiling": ceiling(),
        "jobs": {
            name: {"title": job.title, "alone": job.alone, "seconds": seconds[name]} for name, job in every_job.items()
        },
    }
    put_section(out, "measured", section(facts))
    out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"page       {out}")


def run(job: Job, sequences: int) -> tuple[float, dict[str, str]]:
    """Seconds of the command, and the digest of every model that it made.

    Raises:
        ComputationError: the command failed; what it printed last.
    """
    with tempfile.TemporaryDirectory(prefix="espalier-scaling-") as folder:
        root = Path(folder)
        (root / "params.yaml").write_text(yaml.safe_dump(params(sequences)), encoding="utf-8")
        environment = os.environ | QUIET | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", *job.arguments],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        took = time.perf_counter() - begun
        if done.returncode:
            raise ComputationError(f"{job.title} failed: {done.stderr.strip().splitlines()[-1]}")
        return took, made(root)


def ceiling() -> float:
    """How many times the work of one process all workers get done at once, where each only multiplies matrices."""

    def seconds(processes: int) -> float:
        command = [sys.executable, "-c", PRODUCTS]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
        return statistics.mean(float(one.communicate()[0]) for one in started)

    speedups = [WORKERS * seconds(1) / seconds(WORKERS) for _ in range(3)]
    return statistics.median(speedups)


def made(root: Path) -> dict[str, str]:
    """What was made of blocks and models: kind and key -> digest of the content."""
    manifests = [json.loads(path.read_text()) for path in (root / ".espalier" / "objects").glob("*/manifest.json")]
    return {f"{m['kind']} {m['key']}": m["digest"] for m in manifests if m["kind"] in ("prune_block", "variant")}


def params(sequences: int) -> dict[str, Any]:
    """The shipped params.yaml with SparseGPT at several sparsities, and the model by its full path."""
    given = read_params(ROOT / "params.yaml")
    variant = given["variants"][CALIBRATED]
    variants = {f"sparsegpt-{round(100 * share)}": variant | {"sparsity": share} for share in SPARSITIES}
    evaluation = {name: value for name, value in given["evaluation"].items() if name != "samples"}
    return given | {
        "model": str(ROOT / given["model"]),
        "calibration": given["calibration"] | {"sequences": sequences},
        "evaluation": evaluation,
        "variants": variants,
    }


def section(facts: dict[str, Any]) -> str:
    """The table, from the figures alone."""
    seconds = {name: job["seconds"] for name, job in facts["jobs"].items()}
    rows = []
    for name, job in facts["jobs"].items():
        median, low, high = statistics.median(seconds[name]), min(seconds[name]), max(seconds[name])
        ratio = f"{statistics.median(seconds[job['alone']]) / median:.2f}" if job["alone"] else ""
        rows.append(f"| {job['title']} | {median:.1f} [{low:.1f}, {high:.1f}] | {ratio} |")
    host = facts["machine"]
    return "\n\n".join(
        [
            "## Measured on one machine",
            f"`python -m benchmarks.speed.scaling`: {host['cores']} cores ({host['processor']}), {host['date']}, the "
            f"shipped model, {facts['sequences']} calibration windows, SparseGPT, one thread a worker; whole commands "
            f"with their starts and imports, median and extremes of {facts['rounds']}. Blocks and models have the "
            "digests of the work done alone. "
            f"{WORKERS} processes that do nothing but multiply matrices get {facts['ceiling']:.2f} times the work of "
            "one done here, so no more can be had.",
            "\n".join(["|  | seconds | times as fast |", "|---|---:|---:|", *rows]),
        ]
    )


if __name__ == "__main__":
    run_command(app)
