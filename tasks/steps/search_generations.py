"""Run a search: its work is split among workers, and its state is written after every generation."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pruning_core.allocation.evolutionary import Evolutionary
from pruning_core.budget.levels import Genome
from pruning_core.progress import Progress
from pruning_core.search.evolution import Evolution, GenomeScores, State
from pruning_core.search.operators import Operators
from pruning_core.settings.compute import Workers
from tasks.parallel.submit import Submit
from tasks.parallel.worker_pool import workers
from tasks.progress import progress
from tasks.steps.levels import WEIGHTS
from tasks.steps.running import OnDevice
from tasks.steps.search_worker import Job, evaluate_part, prepare, release, write_targets
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import write_json

STATE = "state.json"
TOKENS_PER_FORWARD = 1024
"""Of search text: few enough for several pieces of work per stage."""
PIECES = 8
"""Pieces that a stage is cut into where it has as many candidates; a fixed number, so that the forwards that prefixes
save do not depend on the number of workers."""
PARTS = 8
"""Files of the dense model's predictions."""


@dataclass(frozen=True)
class SearchRun:
    """A finished search, with the tokens that this process evaluated and the seconds it took."""

    state: State
    tokens: int
    seconds: float


def run_search(
    running: OnDevice,
    worker_settings: Workers,
    inputs: dict[str, Artifact],
    folder: Path,
    settings: Evolutionary,
    operators: Operators,
    starts: dict[str, Genome],
) -> SearchRun:
    """Search to the end; where `folder` holds an earlier state it goes on from there, to the same end.

    Args:
        running, inputs: of the step `search`.
        worker_settings: of the workers that evaluate candidates.
        folder: for the state and the dense model's predictions; survives a kill.
    """
    job = _job(running, inputs, folder, settings, operators)
    everything = settings.windows + settings.validation
    held_out = [(2 * index + 1) * everything // (2 * settings.validation) for index in range(settings.validation)]
    rest = sorted(set(range(everything)) - set(held_out))
    with workers(worker_settings) as submit:
        if worker_settings.name == "threads":
            prepare(job, worker_settings.number)
        try:
            _write_targets(job, submit)
            evaluate = partial(_evaluate_genomes, job, submit, settings.length - 1)
            return _generations(Evolution(settings, operators, evaluate, rest, held_out), starts, folder / STATE)
        finally:
            release(job)


def _generations(evolution: Evolution, starts: dict[str, Genome], saved: Path) -> SearchRun:
    begun = time.monotonic()
    earlier = State.of_facts(json.loads(saved.read_text())) if saved.is_file() else None
    before = earlier.tokens if earlier else 0
    state = earlier or evolution.begin(starts)
    total = evolution.settings.generations
    shown: Progress | None = None
    while not evolution.finished(state):
        write_json(saved, state.facts())
        evolution.step(state)
        if shown is not None:
            shown(total, total)
        # A bar of its own per generation: its label holds the best fitness.
        shown = progress(f"search, best KL {state.history[-1]['best']:.4f}")
        shown(state.generation, total)
    if shown is not None:
        shown(total, total)
    write_json(saved, state.facts())
    return SearchRun(state, state.tokens - before, time.monotonic() - begun)


def _job(
    running: OnDevice, inputs: dict[str, Artifact], folder: Path, settings: Evolutionary, operators: Operators
) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    depth = 1 + operators.levels.matrices[-1].block
    batch = max(1, TOKENS_PER_FORWARD // settings.length)
    windows = settings.windows + settings.validation
    part = -(-windows // (PARTS * batch)) * batch
    return {
        "source": str(inputs["source"].path),
        "trust_remote_code": running.trust_remote_code,
        "device": running.device,
        "dtype": running.dtype,
        "levels": [str(inputs[f"levels-{index}"].path / WEIGHTS) for index in range(depth)],
        "tokens": str(inputs["tokens"].path / "tokens.safetensors"),
        "targets": [str(folder / f"targets-{index}.safetensors") for index in range(-(-windows // part))],
        "part": part,
        "batch": batch,
        "top": settings.top,
    }


def _write_targets(job: Job, submit: Submit) -> None:
    shown = progress("predictions of the dense model")
    waiting = [submit(write_targets, job, number) for number in range(len(job["targets"]))]
    for number, future in enumerate(waiting):
        future.result()
        shown(number + 1, len(waiting))


def _evaluate_genomes(
    job: Job, submit: Submit, predictions: int, genomes: Sequence[Genome], rows: Sequence[int]
) -> GenomeScores:
    """The fitness of candidates: pieces of neighbours and of windows side by side, added up in one order.

    Args:
        predictions: per window.
    """
    order = sorted(range(len(genomes)), key=lambda index: genomes[index])
    batches = [list(rows[start : start + job["batch"]]) for start in range(0, len(rows), job["batch"])]
    cuts = min(-(-PIECES // len(batches)), len(order))
    pieces = [order[len(order) * cut // cuts : len(order) * (cut + 1) // cuts] for cut in range(cuts)]
    work = [(piece, batch) for piece in pieces for batch in batches]
    futures = [submit(evaluate_part, job, [list(genomes[index]) for index in piece], batch) for piece, batch in work]
    totals, run = [0.0] * len(genomes), 0
    for (piece, _), future in zip(work, futures, strict=True):
        done = future.result()
        run += done["blocks"]
        for index, value in zip(piece, done["divergences"], strict=True):
            totals[index] += value
    means = [total / (len(rows) * predictions) for total in totals]
    return GenomeScores([_number(mean) for mean in means], (run, len(genomes) * len(batches) * len(job["levels"])))


def _number(mean: float) -> float:
    """Infinite or NaN where weights overflow a dtype: worse than any other candidate, and still a number."""
    return mean if mean < sys.float_info.max else sys.float_info.max
