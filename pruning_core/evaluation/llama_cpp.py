"""Quality and speed of a GGUF file as llama.cpp runs it, in the terms of this package's own evaluation."""

import contextlib
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning_core.errors import InputError
from pruning_core.evaluation.perplexity import Perplexity, window_loss
from pruning_core.evaluation.serving import Load
from pruning_core.evaluation.speed import Rate, Speed, counted
from pruning_core.export.gguf.header import read_gguf_header
from pruning_core.progress import Progress, ignore_progress

BATCH = 512


def is_installed() -> bool:
    """Whether llama-cpp-python is there."""
    return importlib.util.find_spec("llama_cpp") is not None


def perplexity(
    path: Path,
    windows: Tensor,
    progress: Progress = ignore_progress,
    scored: int | None = None,
    threads: int | None = None,
) -> Perplexity:
    """Each window goes through the file on its own, as `pruning_core.evaluation.perplexity` does it with a model.

    Keys and values are kept in float32, so that what differs from transformers is the file, and not the cache.

    Args:
        path: a GGUF file, or the folder of an export that holds one.
        windows: [windows, length] int64 token ids.
        scored: predictions at the end of a window that count; all length - 1 when absent.
        threads: torch's number when absent.

    Raises:
        InputError: no llama-cpp-python, a file that it cannot load, or windows that the model cannot take.
        ComputationError: a loss that is not finite, with the window.
    """
    if windows.ndim != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
        raise InputError(f"evaluation needs at least one window of at least 2 tokens, got shape {list(windows.shape)}")
    scored = scored or windows.shape[1] - 1
    losses = torch.empty(len(windows), dtype=torch.float64)
    if path.is_dir():
        (path,) = path.glob("*.gguf")
    with _running(path, windows.shape[1], threads, exact=True) as model:
        if int(windows.min()) < 0 or int(windows.max()) >= model.n_vocab():
            raise InputError(f"the windows hold tokens outside 0 to {model.n_vocab() - 1}, which {path} knows")
        for index, window in enumerate(windows):
            logits = _logits(model, window.tolist())
            losses[index] = window_loss(logits[:-1][-scored:], window[-scored:], index)
            progress(index + 1, len(windows))
    return Perplexity(losses, scored * len(windows))


def measure_speed(
    path: Path,
    *,
    prompt: int = 128,
    generated: int = 32,
    repeats: int = 5,
    warmup: int = 1,
    threads: int | None = None,
    progress: Progress = ignore_progress,
) -> Speed:
    """Time prefill (logits of every position) and greedy decoding of one sequence, after runs that are not counted.

    Args:
        prompt, generated: tokens.
        repeats: timed runs, at least 2 for quartiles.
        threads: torch's number when absent.

    Raises:
        InputError: a number out of range, more tokens than the context, or as `perplexity`.
    """
    if min(prompt, generated) < 1 or repeats < 2 or warmup < 0:
        raise InputError("speed: prompt and generated must be at least 1, repeats at least 2, warmup at least 0")
    prefill, decode = _timed_runs(path, prompt, generated, repeats, warmup, threads, progress)
    return Speed(
        prefill=Rate.of(prompt, prefill),
        decode=Rate.of(generated, decode),
        batch=1,
        prompt=prompt,
        generated=generated,
        repeats=repeats,
        device="cpu",
        dtype=_type_of(path),
        threads=threads or torch.get_num_threads(),
    )


def timed(path: Path, load: Load, trust_remote_code: bool) -> dict[int, tuple[list[float], list[float]]]:
    """As `pruning_core.evaluation.transformers_speed.timed`, of the file of an export, for one sequence at a time."""
    if 1 not in load.batches:
        return {}
    file = next(iter(sorted(path.glob("*.gguf"))))
    return {1: _timed_runs(file, load.prompt, load.generated, load.repeats, load.warmup, None, ignore_progress)}


def _timed_runs(
    path: Path, prompt: int, generated: int, repeats: int, warmup: int, threads: int | None, progress: Progress
) -> tuple[list[float], list[float]]:
    """Seconds of each counted prefill and of each decoding."""
    with _running(path, prompt + generated, threads, exact=False) as model:
        tokens = [index % model.n_vocab() for index in range(prompt)]
        return counted(lambda: _timed_run(model, tokens, generated), repeats, warmup, progress)


@contextlib.contextmanager
def _running(path: Path, length: int, threads: int | None, *, exact: bool) -> Iterator[Any]:
    """The file in llama.cpp, with room for `length` tokens."""
    if not is_installed():
        raise InputError("running a GGUF file needs llama-cpp-python; install it with pip install 'espalier[gguf]'")
    header = read_gguf_header(path)
    limit = header.keys.get(f"{header.keys.get('general.architecture')}.context_length")
    if limit is not None and length > limit:
        raise InputError(f"{length} tokens do not fit into the context of {path}, {limit} tokens")
    import llama_cpp

    count = threads or torch.get_num_threads()
    batch = min(length, BATCH)
    settings = {"n_ctx": length, "n_batch": batch, "n_ubatch": batch, "n_threads": count, "n_threads_batch": count}
    if exact:
        settings |= {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32, "flash_attn": False}
    try:
        model = llama_cpp.Llama(str(path), logits_all=True, verbose=False, n_gpu_layers=0, **settings)
    except ValueError as error:
        raise InputError(f"llama.cpp cannot load {path}: {error}") from error
    try:
        yield model
    finally:
        model.close()


def _logits(model: Any, tokens: list[int]) -> Tensor:
    """[tokens, vocabulary] float32 of a sequence on its own."""
    model.reset()
    model.eval(tokens)
    return torch.from_numpy(np.array(model.scores[: len(tokens)], dtype=np.float32))


def _timed_run(model: Any, tokens: list[int], generated: int) -> tuple[float, float]:
    """Seconds of the prefill and of the decoding."""
    model.reset()
    began = time.perf_counter()
    model.eval(tokens)
    prefilled = time.perf_counter()
    for position in range(len(tokens), len(tokens) + generated):
        model.eval([int(model.scores[position - 1].argmax())])
    return prefilled - began, time.perf_counter() - prefilled


def _type_of(path: Path) -> str:
    from gguf import LlamaFileType

    number = read_gguf_header(path).keys.get("general.file_type")
    names: dict[object, str] = {
        int(kind): kind.name.lower().removeprefix("mostly_").removeprefix("all_") for kind in LlamaFileType
    }
    return names.get(number, "unknown")
