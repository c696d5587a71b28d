"""ONNX Runtime beside the other engines: a causal language model as a graph with its cache, and what decodes with it.

The graph takes `input_ids` [batch, tokens] int64 and per block `past_key_i`, `past_value_i` [batch, heads, past, head
width] float32; it gives `logits` [batch, tokens, vocabulary] and `present_key_i`, `present_value_i`, longer by the
tokens. Batch, tokens and past are free, and past may be 0.
"""

import contextlib
import importlib.util
import logging
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from pruning_core.errors import InputError
from pruning_core.evaluation.serving import Load
from pruning_core.evaluation.speed import counted
from pruning_core.progress import ignore_progress
from pruning_core.source import load_model

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

FILE = "model.onnx"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
OPSET = 23
"""The first with attention, rotary embedding and RMS norm as operators of their own."""
BLOCK = 32
"""Inputs that share a 4-bit scale, as in q4_0."""
BY_INT8 = 4
"""The accuracy level at which ONNX Runtime rounds activations to int8 to multiply them with 4-bit weights."""

Past = dict[str, "OrtValue"]


def is_installed() -> bool:
    """Whether models can be exported, quantized and run."""
    return all(importlib.util.find_spec(name) for name in PACKAGES)


class WithCache(nn.Module):
    """A causal language model whose cache comes in and goes out as plain tensors: key and value, block by block."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        cache = DynamicCache(zip(past[::2], past[1::2], strict=True))
        # Given per sequence: those that the model makes itself have a batch of one, which the rotary operator refuses.
        positions = (past[0].shape[2] + torch.arange(tokens.shape[1])).expand(tokens.shape[0], -1)
        found = self.model(input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True)
        return found.logits, *_tensors(found.past_key_values)


def _tensors(cache: DynamicCache) -> list[Tensor]:
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def export(source: Path, out: Path) -> Path:
    """Write the model in float32 to the new folder `out`, which is returned."""
    model = load_model(source)
    # Tied to the embedding, the head would be multiplied by a transposition, and the quantizers leave such ones out.
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    # Sizes of 0 and 1 would be taken for constants.
    with torch.inference_mode():
        past = _tensors(model(input_ids=torch.zeros(2, 5, dtype=torch.long), use_cache=True).past_key_values)
    names = [f"{part}_{block}" for block in range(len(past) // 2) for part in ("key", "value")]
    batch, tokens, before = (torch.export.Dim(name) for name in ("batch", "tokens", "past"))
    with _quiet():
        program = torch.onnx.export(
            WithCache(model),
            (torch.zeros(2, 3, dtype=torch.long), *past),
            dynamo=True,
            opset_version=OPSET,
            input_names=["input_ids", *(f"past_{name}" for name in names)],
            output_names=["logits", *(f"present_{name}" for name in names)],
            dynamic_shapes=({0: batch, 1: tokens}, ({0: batch, 2: before},) * len(past)),
            verbose=False,
        )
        out.mkdir()
        program.save(str(out / FILE), external_data=True)
    return out


def to_int8(source: Path, out: Path) -> Path:
    """The float32 export with its matrices in int8, a scale per output; activations are rounded as they come."""
    with _quiet():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        out.mkdir()
        # Unsigned as the activations are: products with signed ones saturate on processors without VNNI.
        kind = {"weight_type": QuantType.QUInt8, "per_channel": True, "op_types_to_quantize": ["MatMul"]}
        quantize_dynamic(source / FILE, out / FILE, use_external_data_format=True, **kind)
    return out


def to_int4(source: Path, out: Path) -> Path:
    """The float32 export with its matrices in 4 bits, a scale per `BLOCK` inputs, symmetric."""
    with _quiet():
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            str(source / FILE), bits=4, block_size=BLOCK, is_symmetric=True, accuracy_level=BY_INT8
        )
        quantizer.process()
        out.mkdir()
        quantizer.model.save_model_to_file(str(out / FILE), True)
    return out


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own deprecations, and the quantizers tell of every node through a logger that they set
    up for the whole process when they are imported."""
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)


def opened(path: Path) -> "InferenceSession":
    """The model of an export, on the processor, with torch's number of threads.

    Raises:
        InputError: a package is missing.
    """
    if not is_installed():
        raise InputError(f"running an ONNX file needs packages; install them with pip install {' '.join(PACKAGES)}")
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
    given = {"input_ids": OrtValue.ortvalue_from_numpy(tokens), **past}
    logits, *present = session.run_with_ort_values(None, given)
    return logits.numpy(), dict(zip(past, present, strict=True))


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
