"""Step: the quality of an ONNX export as ONNX Runtime runs it, on the windows that the dense model was judged on."""

import importlib.metadata
from pathlib import Path
from typing import Any

from pruning_core.evaluation.comparison import paired_difference
from pruning_core.evaluation.onnx_runtime import perplexity
from pruning_core.text.windows import Windows
from tasks.artifact import Artifact
from tasks.evaluate import losses_of
from tasks.progress import progress
from tasks.states import load_tokens
from tasks.step import Context, step


def version() -> str:
    """Of onnxruntime, a part of the step's key."""
    return importlib.metadata.version("onnxruntime")


@step("evaluate_onnx")
def evaluate_onnx(params: dict[str, Any], inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """Perplexity, and the paired difference to the dense model as transformers runs it.

    params: onnxruntime (version).
    inputs: model (an export with an ONNX graph), tokens, baseline (the dense evaluation).
    """
    windows = Windows(load_tokens(inputs["tokens"]), inputs["tokens"].facts)
    own = perplexity(inputs["model"].path, windows.tokens, progress("evaluation"), windows.facts["scored"])
    difference = paired_difference(own.losses, losses_of(inputs["baseline"]))
    return own.facts() | {
        "difference_to_dense": {"mean": difference.mean, "standard_error": difference.standard_error},
    }
