"""Step: the quality of an export as its own engine runs it, on the windows that the dense model was evaluated on."""

import importlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning_core.evaluation.paired import paired_difference
from pruning_core.text.tokenized.windows import Windows
from tasks.engine.step import Context, step
from tasks.progress import progress
from tasks.steps.evaluate import losses_of
from tasks.steps.hidden_states import load_tokens
from tasks.store.artifact import Artifact

ENGINES = {
    "llama.cpp": ("pruning_core.evaluation.llama_cpp", "llama-cpp-python"),
    "ONNX Runtime": ("pruning_core.evaluation.onnx_runtime", "onnxruntime"),
}
"""Engine -> (the module that runs an export by it, the package whose version is a part of the step's key)."""


@dataclass(frozen=True, kw_only=True)
class EvaluateExportParams:
    """An engine of `ENGINES` and the version of its package."""

    engine: str
    version: str


def engine_params(engine: str) -> EvaluateExportParams:
    """The step's params for an engine of `ENGINES`, as it is installed."""
    return EvaluateExportParams(engine=engine, version=importlib.metadata.version(ENGINES[engine][1]))


@step("evaluate_export", modules=lambda params: [ENGINES[params.engine][0]])
def evaluate_export(
    params: EvaluateExportParams, inputs: dict[str, Artifact], out: Path, context: Context
) -> dict[str, Any]:
    """Perplexity, and the paired difference to the dense model as transformers runs it.

    inputs: model (an export that the engine runs), tokens, baseline (the dense evaluation).
    """
    runner = importlib.import_module(ENGINES[params.engine][0])
    windows = Windows(load_tokens(inputs["tokens"]), inputs["tokens"].facts)
    quality = runner.perplexity(inputs["model"].path, windows.tokens, progress("evaluation"), windows.facts["scored"])
    difference = paired_difference(quality.losses, losses_of(inputs["baseline"]))
    return quality.facts() | {
        "difference_to_dense": {"mean": difference.mean, "standard_error": difference.standard_error},
    }
