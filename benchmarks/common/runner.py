"""One contestant's turn: `python -m benchmarks.common.runner JOB.json RESULT.json` does a job in a process of its own.

A job names its kind (a key of JOBS) and what that needs; paths are strings. The clock starts when everything is
imported and compiled: a job that brings a "warm" job does that first, on a model of toy size.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.common.floor import multiplication_rate
from benchmarks.common.published import compress as compress_as_published
from benchmarks.common.sweep import measure as measure_sweep
from pruning_core.calibration.collect import collect
from pruning_core.calibration.hidden_states import HiddenStates
from pruning_core.calibration.staged_forward import InputGroup
from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.checkpoint.model_files import read_config
from pruning_core.compress.block import compress_block, compress_block_from
from pruning_core.model.decoder import Decoder
from pruning_core.settings.method import build_method
from pruning_core.source import load_model

Job = dict[str, Any]


def espalier(job: Job) -> dict[str, float]:
    """Seconds from the model's files to the compressed weights on disk, one file per block."""
    tokens, out = _tokens(job), _folder(job)
    method = build_method(job["method"])
    start = time.perf_counter()
    decoder = Decoder(Path(job["model"]), read_config(Path(job["model"])))
    states = HiddenStates.at_entry(decoder, tokens, job["batch"])
    for index in range(len(decoder)):
        decoder.load_block(index)
        outcome = compress_block(decoder, index, states, method, job["propagate"], advance=index + 1 < len(decoder))
        decoder.drop_block(index)
        save_file(outcome.weights, out / f"block-{index}.safetensors")
    return {"seconds": time.perf_counter() - start}


def statistics(job: Job) -> dict[str, float]:
    """Seconds to collect and store the statistics of all blocks of the dense model, once for every variant."""
    tokens, out = _tokens(job), _folder(job)
    start = time.perf_counter()
    decoder = Decoder(Path(job["model"]), read_config(Path(job["model"])))
    states = HiddenStates.at_entry(decoder, tokens, job["batch"])
    for index in range(len(decoder)):
        decoder.load_block(index)
        collected = collect(decoder, index, states)
        decoder.drop_block(index)
        moments = {str(number): group_statistics.moment for number, (_, group_statistics) in enumerate(collected)}
        save_file(moments, out / f"statistics-{index}.safetensors")
        facts = [
            [list(group.names), group_statistics.tokens, group_statistics.sequences]
            for group, group_statistics in collected
        ]
        (out / f"statistics-{index}.json").write_text(json.dumps(facts))
    return {"seconds": time.perf_counter() - start}


def variant(job: Job) -> dict[str, float]:
    """Seconds for one more variant from stored statistics, again from files to files."""
    out, stored = _folder(job), Path(job["statistics"])
    method = build_method(job["method"])
    start = time.perf_counter()
    decoder = Decoder(Path(job["model"]), read_config(Path(job["model"])))
    for index in range(len(decoder)):
        decoder.load_block(index)
        outcome = compress_block_from(decoder, index, _stored_statistics(stored, index), method)
        decoder.drop_block(index)
        save_file(outcome.weights, out / f"block-{index}.safetensors")
    return {"seconds": time.perf_counter() - start}


def _stored_statistics(folder: Path, index: int) -> list[tuple[InputGroup, LayerStatistics]]:
    moments = load_file(folder / f"statistics-{index}.safetensors")
    facts = json.loads((folder / f"statistics-{index}.json").read_text())
    return [
        (InputGroup(tuple(names)), LayerStatistics(len(moments[str(number)]), True, *counts, moments[str(number)]))
        for number, (names, *counts) in enumerate(facts)
    ]


def published(job: Job) -> dict[str, float]:
    """Seconds of the published loops alone; loading the model and writing the weights are timed apart."""
    tokens, out = _tokens(job), _folder(job)
    started = time.perf_counter()
    model = load_model(job["model"])
    loaded = time.perf_counter()
    changed = compress_as_published(model, tokens, **job["method"])
    compressed = time.perf_counter()
    checkpoint = Checkpoint(Path(job["model"]))
    stored = {name: weight.to(checkpoint.dtype(name)).contiguous() for name, weight in changed.items()}
    save_file(stored, out / "weights.safetensors")
    written = time.perf_counter()
    return {"seconds": compressed - loaded, "load": loaded - started, "save": written - compressed}


def rate(job: Job) -> dict[str, Any]:
    """Float32 operations per second of matrix products, by shape."""
    return {"rates": multiplication_rate([tuple(shape) for shape in job["shapes"]], job["seconds"])}


def column_sweep(job: Job) -> dict[str, Any]:
    """The figures of `benchmarks.common.sweep` on the CPU."""
    return measure_sweep(job["size"], job["repeats"], torch.device("cpu"), lambda line: None)


JOBS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "espalier": espalier,
    "statistics": statistics,
    "variant": variant,
    "published": published,
    "rate": rate,
    "sweep": column_sweep,
}


def perform(job: Job) -> dict[str, Any]:
    """Do a job in this process, its warm-up first."""
    before = torch.get_num_threads()
    torch.set_num_threads(job["threads"])
    try:
        if job.get("warm"):
            JOBS[job["kind"]](job["warm"])
        return JOBS[job["kind"]](job)
    finally:
        torch.set_num_threads(before)


def _tokens(job: Job) -> torch.Tensor:
    return load_file(job["tokens"])["tokens"]


def _folder(job: Job) -> Path:
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    return out


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(perform(json.loads(Path(sys.argv[1]).read_text()))))
