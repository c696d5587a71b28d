"""Speed of a model directory as transformers runs it here."""

from pathlib import Path

from transformers import PreTrainedModel

from pruning_core.evaluation.serving import Load
from pruning_core.evaluation.speed import timed_runs
from pruning_core.source import load_model


def timed(path: Path, load: Load, trust_remote_code: bool) -> dict[int, tuple[list[float], list[float]]]:
    """Batch -> (seconds of each prefill, seconds of each decoding), in float32 on the CPU."""
    return timed_batches(load_model(path, trust_remote_code=trust_remote_code), load)


def timed_batches(model: PreTrainedModel, load: Load) -> dict[int, tuple[list[float], list[float]]]:
    """The same of a model that is loaded."""
    return {
        batch: timed_runs(
            model,
            prompt=load.prompt,
            generated=load.generated,
            batch=batch,
            repeats=load.repeats,
            warmup=load.warmup,
        )
        for batch in load.batches
    }
