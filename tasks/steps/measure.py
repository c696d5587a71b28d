"""Step: measure speed and size of a model on this machine; apart from quality, since no two measurements are equal."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning_core.evaluation.size import model_size
from pruning_core.evaluation.speed import measure_speed
from pruning_core.source import load_model
from tasks.engine.step import Context, step
from tasks.progress import progress
from tasks.steps.evaluate import reader
from tasks.store.artifact import Artifact


@dataclass(frozen=True, kw_only=True)
class MeasureParams:
    """What is timed.

    Args:
        machine: what the figure holds for.
        prompt, generated: tokens.
        format: as in `tasks.steps.evaluate`.
    """

    machine: dict[str, Any]
    prompt: int
    generated: int
    trust_remote_code: bool
    format: str | None = None


@step("measure", modules=lambda params: reader(params.format))
def measure(params: MeasureParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """Prefill and decode tokens per second, median and quartiles, and the bytes on disk.

    inputs: model.
    """
    model = load_model(inputs["model"].path, trust_remote_code=params.trust_remote_code)
    speed = measure_speed(model, prompt=params.prompt, generated=params.generated, progress=progress("speed"))
    return {"speed": speed.facts(), "size": model_size(inputs["model"].path), "machine": params.machine}
