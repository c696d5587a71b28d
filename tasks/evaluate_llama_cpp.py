"""Step: the quality of a GGUF export as llama.cpp runs it, on the windows that the dense model was judged on."""

import importlib.metadata
from pathlib import Path
from typing import Any

from pruning_core.evaluation.comparison import paired_difference
from pruning_core.evaluation.llama_cpp import perplexity
from pruning_core.text.windows import Windows
from tasks.artifact import Artifact
from tasks.evaluate import losses_of
from tasks.progress import progress
from tasks.states import load_tokens
from tasks.step import Context, step


def version() -> str:
    """Of llama-cpp-python, a part of the step's key."""
    return importlib.metadata.version("llama-cpp-python")


@step("evaluate_llama_cpp")
def evaluate_llama_cpp(
    params: dict[str, Any], inputs: dict[str, Artifact], out: Path, context: Context
) -> dict[str, Any]:
    """Perplexity, and the paired difference to the dense model as transformers runs it.

    params: llama_cpp (version).
    inputs: model (an export with one GGUF file), tokens, baseline (the dense evaluation).
    """
    windows = Windows(load_tokens(inputs["tokens"]), inputs["tokens"].facts)
    (file,) = inputs["model"].path.glob("*.gguf")
    own = perplexity(file, windows.tokens, progress("evaluation"), windows.facts["scored"])
    difference = paired_difference(own.losses, losses_of(inputs["baseline"]))
    return own.facts() | {
        "difference_to_dense": {"mean": difference.mean, "standard_error": difference.standard_error},
    }
