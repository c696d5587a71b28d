"""The worker of a search: it builds its model once, and evaluates candidates that it is sent as JSON.

Everything else it reads from the artifacts that the job names, so that any process that sees their files can work.
"""

import queue
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pruning_core.model.whole_model import load_whole
from pruning_core.search.evaluator import Evaluator
from pruning_core.search.level_store import LevelStore
from pruning_core.search.targets import DenseTargets, Targets
from pruning_core.settings.compute import Running
from tasks.store.canonical_json import digest_of

Job = dict[str, Any]
"""source (directory), trust_remote_code, device, dtype; levels (files, one per block), tokens (file), targets (files),
part (windows per file of targets), batch (windows per forward), top (probabilities kept)."""


@dataclass
class _Ready:
    """What a process holds for one job."""

    windows: Tensor
    store: LevelStore
    idle: queue.LifoQueue = field(default_factory=queue.LifoQueue)
    targets: Targets | None = None


_READY: dict[str, _Ready] = {}
_LOCK = threading.Lock()


def prepare(job: Job, count: int) -> None:
    """Build the models of `count` threads of this process.

    All before the first candidate: while a model is built, modules made in other threads have no weights.
    """
    with _LOCK:
        name = digest_of(job)
        if name not in _READY:
            ready = _Ready(load_file(job["tokens"])["tokens"], LevelStore([Path(file) for file in job["levels"]]))
            running = Running(job["device"], job["dtype"])
            for _ in range(count):
                placed = {"device": running.torch_device, "dtype": running.torch_dtype}
                decoder = load_whole(job["source"], job["trust_remote_code"], **placed)
                ready.idle.put(Evaluator(decoder, ready.store))
            _READY[name] = ready


def release(job: Job) -> None:
    """Give the memory of a job's models back."""
    with _LOCK:
        _READY.pop(digest_of(job), None)


def write_targets(job: Job, number: int) -> None:
    """Write one file of the dense model's predictions, unless it is there."""
    path = Path(job["targets"][number])
    if path.is_file():
        return
    ready = _ready(job)
    first = number * job["part"]
    rows = ready.windows[first : first + job["part"]]
    evaluator = ready.idle.get()
    try:
        targets = DenseTargets.of(evaluator.dense_logits, rows, job["top"], job["batch"])
    finally:
        ready.idle.put(evaluator)
    partial = path.with_suffix(".partial")
    targets.save(partial)
    partial.rename(path)


def evaluate_part(job: Job, genomes: list[list[int]], rows: list[int]) -> dict[str, Any]:
    """{"divergences": per candidate its KL summed over all predictions of these windows, "blocks": forwards run}.

    Args:
        genomes: in sorted order to save most.
        rows: numbers of at most job["batch"] windows.
    """
    ready = _ready(job)
    with _LOCK:
        if ready.targets is None:
            parts = [DenseTargets.load(Path(file)) for file in job["targets"]]
            ready.targets = Targets(parts, job["part"])
    evaluator = ready.idle.get()
    try:
        scores = evaluator.evaluate([tuple(genome) for genome in genomes], ready.windows, rows, ready.targets)
    finally:
        ready.idle.put(evaluator)
    return {"divergences": [sum(windows) for windows in scores.divergences], "blocks": scores.blocks}


def _ready(job: Job) -> _Ready:
    # One thread each, whatever the machine: a sum shared by several threads has other last bits.
    torch.set_num_threads(1)
    prepare(job, 1)
    return _READY[digest_of(job)]
