"""Graphs that are traced once for all tests, and what ONNX Runtime computes with them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pruning_core.evaluation import onnx_runtime
from pruning_core.export.onnx import assembly
from pruning_core.export.onnx.graph import Traced
from pruning_core.export.onnx.packages import PACKAGES, is_installed

needs_onnx = pytest.mark.skipif(
    not is_installed(), reason=f"not all of {', '.join(PACKAGES)} are installed (the extra onnx)"
)
_TRACED: dict[str, Traced] = {}
_trace = assembly.traced


def traced_once(config) -> Traced:
    """In place of `traced`, which takes seconds: a copy of the graph of an equal config."""
    import onnx

    key = config.to_json_string(use_diff=False)
    if key not in _TRACED:
        _TRACED[key] = _trace(config)
    proto = onnx.ModelProto()
    proto.CopyFrom(_TRACED[key].proto)
    return dataclasses.replace(_TRACED[key], proto=proto)


def decoded(path: Path, prompt: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy by ONNX Runtime: the tokens [batch, prompt + count], and the logits that it gave at each of them."""
    session = onnx_runtime.opened(path)
    tokens, past = prompt.numpy(), onnx_runtime.empty(session, len(prompt))
    known, logits = [tokens], []
    for _ in range(count + 1):
        found, past = onnx_runtime.step(session, tokens, past)
        # The runtime may use the memory of its answer again.
        logits.append(found.copy())
        tokens = found[:, -1:].argmax(-1)
        known.append(tokens)
    return torch.from_numpy(np.concatenate(known[:-1], 1)), torch.from_numpy(np.concatenate(logits, 1))


def prompts(batch: int, length: int, vocabulary: int) -> torch.Tensor:
    return torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(1))
