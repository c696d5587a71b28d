"""Quality and speed of an ONNX export as ONNX Runtime runs it on the processor, in the terms of this package's own
evaluation."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pruning_core.errors import InputError
from pruning_core.evaluation.perplexity import Perplexity, window_loss
from pruning_core.evaluation.serving import Load
from pruning_core.evaluation.speed import counted
from pruning_core.export.onnx.packages import FILE
from pruning_core.export.onnx.weights import OnnxWeights
from pruning_core.progress import Progress, ignore_progress

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

Past = dict[str, "OrtValue"]


def opened(path: Path) -> "InferenceSession":
    """The model of an export's folder, with torch's number of threads.

    Raises:
        InputError: a package is missing, or a damaged or crafted file.
    """
    # The graph says which files the runtime reads.
    OnnxWeights(path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path / FILE), options, providers=["CPUExecutionProvider"])


def empty(session: "InferenceSession", batch: int) -> Past:
    """The cache before the first token."""
    from onnxruntime import OrtValue

    shapes = {one.name: (batch, one.shape[1], 0, one.shape[3]) for one in session.get_inputs()[1:]}
    return {name: OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32)) for name, shape in shapes.items()}


def step(session: "InferenceSession", tokens: np.ndarray[Any, Any], past: Past) -> tuple[np.ndarray[Any, Any], Past]:
    """Logits [batch, tokens, vocabulary] float32 of `tokens` [batch, tokens] int64, and the cache with them."""
    from onnxruntime import OrtValue

    # Values of the runtime's own: the cache is not copied to numpy and back at every token.
    feeds = {"input_ids": OrtValue.ortvalue_from_numpy(tokens), **past}
    logits, *present = session.run_with_ort_values(None, feeds)
    return logits.numpy(), dict(zip(past, present, strict=True))


def perplexity(
    path: Path, windows: Tensor, progress: Progress = ignore_progress, scored: int | None = None
) -> Perplexity:
    """Each window goes through the graph on its own, as `pruning_core.evaluation.perplexity` does it with a model.

    Args:
        path: the folder of an export.
        windows: [windows, length] int64 token ids.
        scored: predictions at the end of a window that count; all length - 1 when absent.

    Raises:
        InputError: as `opened`, or windows that the model cannot take.
        ComputationError: a loss that is not finite, with the window.
    """
    if windows.ndim != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
        raise InputError(f"evaluation needs at least one window of at least 2 tokens, got shape {list(windows.shape)}")
    session, scored = opened(path), scored or windows.shape[1] - 1
    vocabulary = session.get_outputs()[0].shape[2]
    if int(windows.min()) < 0 or int(windows.max()) >= vocabulary:
        raise InputError(f"the windows hold tokens outside 0 to {vocabulary - 1}, which {path} knows")
    past, losses = empty(session, 1), torch.empty(len(windows), dtype=torch.float64)
    for index, window in enumerate(windows):
        logits, _ = step(session, window[None].numpy(), past)
        losses[index] = window_loss(torch.from_numpy(logits[0, :-1][-scored:]), window[-scored:], index)
        progress(index + 1, len(windows))
    return Perplexity(losses, scored * len(windows))


def timed(path: Path, load: Load, trust_remote_code: bool) -> dict[int, tuple[list[float], list[float]]]:
    """As `pruning_core.evaluation.transformers_speed.timed`, of the folder of an export."""
    session = opened(path)
    return {
        batch: counted(partial(_timed_run, session, batch, load), load.repeats, load.warmup, ignore_progress)
        for batch in load.batches
    }


def _timed_run(session: "InferenceSession", batch: int, load: Load) -> tuple[float, float]:
    """Seconds of the prefill and of the decoding."""
    vocabulary = session.get_outputs()[0].shape[2]
    tokens = np.tile(np.arange(load.prompt) % vocabulary, (batch, 1))
    past = empty(session, batch)
    began = time.perf_counter()
    logits, past = step(session, tokens, past)
    token = logits[:, -1:].argmax(-1)
    prefilled = time.perf_counter()
    for _ in range(load.generated):
        logits, past = step(session, token, past)
        token = logits[:, -1:].argmax(-1)
    return prefilled - began, time.perf_counter() - prefilled
