"""What is read off a saved model and its training, for the sections on recovery and on structured pruning."""

import json
from typing import Any

from benchmarks.quality.figures import Bench
from pruning_core.evaluation.size import model_size
from tasks.steps.recover import CURVE
from tasks.store.artifact import Artifact
from tasks.store.directories import RUN


def made(bench: Bench, model: Artifact) -> dict[str, Any]:
    """What is counted in a saved model, and where it was trained how that went."""
    size, whole = model_size(model.path), model_size(bench.home.source.path)
    sizes = {"bytes": size["file_bytes"], "smaller": 1 - size["parameters"] / whole["parameters"]}
    recovery = model.facts.get("recovery")
    if recovery is None:
        return sizes
    curve = json.loads((model.path / CURVE).read_text())
    return sizes | {
        "steps": recovery["steps"],
        # Of the machine that made it, with whatever else it did meanwhile.
        "seconds": json.loads((model.path / RUN).read_text())["seconds"],
        "validation_loss": recovery["validation_loss"],
        "removed": recovery["removed"],
        "dropped_windows": recovery["dropped_windows"],
        "rate": model.facts["recipe"]["recovery"]["learning_rate"],
        "curve": [{key: point[key] for key in ("step", "validation_loss")} for point in curve.get("model", [])],
    }
