"""Step: how fast an export is served and what memory it takes, beside the dense model in the same run."""

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


def _modules(params: dict[str, Any]) -> list[str]:
    return [*reader(params), ENGINES[params["engine"]]]


@step("serve_speed", modules=_modules)
def serve_speed(params: dict[str, Any], inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """Prefill, decoding, time to the first token and peak memory, dense first; and the bytes of both.

    params: machine (what the figures hold for), load, trust_remote_code, engine (of the export), format (its name).
    inputs: dense, export.
    """
    load = Load(**params["load"] | {"batches": tuple(params["load"]["batches"])})
    trust = params["trust_remote_code"]
    models = {
        "dense": Served(inputs["dense"].path, trust_remote_code=trust),
        "export": Served(inputs["export"].path, params["engine"], trust),
    }
    return {
        "rows": measure_served(models, load, progress("speed")),
        "bytes": {name: weight_bytes(served.path) for name, served in models.items()},
        "machine": params["machine"],
        "load": params["load"],
    }
