"""Speed and memory of model directories as they are served: each in processes of its own, taking turns.

What else was loaded would count as memory, and a machine that slows down would slow only the one that came last.
"""

import importlib
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from pruning_core.errors import ComputationError
from pruning_core.evaluation.peak_memory import peak_bytes, reset_peak
from pruning_core.evaluation.speed import Rate
from pruning_core.progress import Progress, ignore_progress

ENGINES = {
    "transformers": "pruning_core.evaluation.transformers_speed",
    "llama.cpp": "pruning_core.evaluation.llama_cpp",
    "ONNX Runtime": "pruning_core.evaluation.onnx_runtime",
}
"""Engine -> the module whose `timed(path, load, trust_remote_code)` gives {batch: (seconds of each prefill, of each
decoding)} of the batches that it can run; imported in the process that measures."""


@dataclass(frozen=True)
class Load:
    """What is asked of a model.

    Args:
        batches: sequences at once, one measurement each.
        prompt, generated: tokens per sequence.
        repeats: timed runs per round, after `warmup` runs that are not.
        rounds: how often each model has its turn.
    """

    batches: tuple[int, ...] = (1, 8)
    prompt: int = 128
    generated: int = 32
    repeats: int = 3
    warmup: int = 1
    rounds: int = 2


@dataclass(frozen=True)
class Served:
    """A directory and what runs it: transformers computes in float32 whatever is stored, the others as the file says.

    Args:
        engine: its name, for people.
        module: dotted name of what times it as the modules of `ENGINES` do, where it is none of them; after a colon the
            name of its function where that is not `timed`.
    """

    path: Path
    engine: str = "transformers"
    trust_remote_code: bool = False
    module: str = ""


def measure_served(
    models: Mapping[str, Served], load: Load, progress: Progress = ignore_progress
) -> list[dict[str, Any]]:
    """One row per model and batch, the models in the order given.

    Returns:
        Rows {`model`, `engine`, `batch`, `prefill`, `decode` (as `Rate`, tokens per second), `first_token` {`median`,
        `lower_quartile`, `upper_quartile`} (seconds until the prompt is read and the first token known), `peak_bytes`
        (resident memory of the process at its highest while it loads and runs the model: nothing is subtracted, and
        pages of the weights file that are mapped count), `before_bytes` (what of it the interpreter and its libraries
        had when loading began; both medians of the rounds)}.

    Raises:
        ComputationError: a process failed.
    """
    measurements: dict[str, list[dict[str, Any]]] = {name: [] for name in models}
    total = load.rounds * len(models)
    for turn in range(load.rounds):
        for number, (name, served) in enumerate(models.items()):
            measurements[name].append(_in_a_process(served, load))
            progress(turn * len(models) + number + 1, total)
    return [
        _row(name, models[name].engine, batch, load, rounds)
        for name, rounds in measurements.items()
        for batch in load.batches
        # Some engines run one sequence at a time.
        if str(batch) in rounds[0]["seconds"]
    ]


def _row(name: str, engine: str, batch: int, load: Load, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = {
        part: [second for one in rounds for second in one["seconds"][str(batch)][part]]
        for part in ("prefill", "decode")
    }
    prefill = Rate.of(batch * load.prompt, seconds["prefill"])
    memory = {part: statistics.median_high(one[part] for one in rounds) for part in ("peak_bytes", "before_bytes")}
    return {
        "model": name,
        "engine": engine,
        "batch": batch,
        "prefill": asdict(prefill),
        "decode": asdict(Rate.of(batch * load.generated, seconds["decode"])),
        "first_token": {
            "median": batch * load.prompt / prefill.median,
            "lower_quartile": batch * load.prompt / prefill.upper_quartile,
            "upper_quartile": batch * load.prompt / prefill.lower_quartile,
        },
        **memory,
    }


def _in_a_process(served: Served, load: Load) -> dict[str, Any]:
    module = served.module or ENGINES[served.engine]
    job = asdict(served) | {"path": str(served.path), "load": asdict(load), "module": module}
    done = subprocess.run(
        [sys.executable, "-m", __name__], input=json.dumps(job), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ComputationError(
            f"{served.path} could not be run: {(done.stderr.strip().splitlines() or ['killed'])[-1]}"
        )
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    """In the process: the seconds of every run, and the memory that loading and running took."""
    module, _, function = job["module"].partition(":")
    engine = getattr(importlib.import_module(module), function or "timed")
    before = psutil.Process().memory_info().rss
    # Importing may have taken more than serving will.
    reset_peak()
    runs = engine(Path(job["path"]), Load(**job["load"]), job["trust_remote_code"])
    seconds = {batch: {"prefill": prefill, "decode": decode} for batch, (prefill, decode) in runs.items()}
    return {"seconds": seconds, "peak_bytes": peak_bytes(), "before_bytes": before}


if __name__ == "__main__":
    print(json.dumps(_measure(json.loads(sys.stdin.read()))))
