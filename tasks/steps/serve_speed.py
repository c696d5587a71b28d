"""Step: measure speed and memory of a served export, beside the dense model in the same run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning_core.evaluation import llama_cpp
from pruning_core.evaluation.serving import ENGINES, Load, Served, measure_served
from pruning_core.export.onnx import packages
from pruning_core.export.stored.recognise import format_of, weight_bytes
from tasks.engine.step import Context, step
from tasks.progress import progress
from tasks.steps.evaluate import reader
from tasks.store.artifact import Artifact

OWN = {"gguf": ("llama.cpp", llama_cpp), "onnx": ("ONNX Runtime", packages)}
"""Format -> the engine that its files are made for, and the module that knows whether it is installed."""


def engine_of(directory: Path) -> str:
    """What serves an export on this machine: the engine of its format where that is installed, else transformers."""
    engine, module = OWN.get(format_of(directory).name, ("transformers", None))
    return engine if module and module.is_installed() else "transformers"


@dataclass(frozen=True, kw_only=True)
class ServeSpeedParams:
    """What is timed.

    Args:
        machine: what the figures hold for.
        load: fields of `pruning_core.evaluation.serving.Load`.
        engine: that serves the export.
        format: of the export, its name.
    """

    machine: dict[str, Any]
    load: dict[str, Any]
    engine: str
    format: str
    trust_remote_code: bool


def _modules(params: ServeSpeedParams) -> list[str]:
    return [*reader(params.format), ENGINES[params.engine]]


@step("serve_speed", modules=_modules)
def serve_speed(params: ServeSpeedParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """Prefill, decoding, time to the first token and peak memory, dense first; and the bytes of both.

    inputs: dense, export.
    """
    load = Load(**params.load | {"batches": tuple(params.load["batches"])})
    trust = params.trust_remote_code
    models = {
        "dense": Served(inputs["dense"].path, trust_remote_code=trust),
        "export": Served(inputs["export"].path, params.engine, trust),
    }
    return {
        "rows": measure_served(models, load, progress("speed")),
        "bytes": {name: weight_bytes(served.path) for name, served in models.items()},
        "machine": params.machine,
        "load": params.load,
    }
