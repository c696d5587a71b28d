"""Which steps let a variant go on with the prompts of params.yaml: the dense model first, then the variant."""

from typing import TYPE_CHECKING

from pruning_core.recipe import BASELINE
from pruning_core.sample_settings import build_samples
from tasks.artifact import Artifact
from tasks.samples import samples

if TYPE_CHECKING:
    from tasks.pipeline import Pipeline


def written(pipeline: "Pipeline", name: str) -> Artifact | None:
    """A variant's continuations; None where params.yaml has no samples, or the driver only looks and they are missing.

    The prompts are beginnings of evaluation windows, never of calibration text, or those that params.yaml gives.
    """
    evaluation = pipeline.settings.evaluation
    if evaluation.samples is None:
        return None
    chosen = build_samples(evaluation.samples, evaluation.length, evaluation.windows)
    params = {"trust_remote_code": pipeline.trust, "device": pipeline.forwards["device"]}
    inputs = {}
    if name != BASELINE:
        inputs["baseline"] = written(pipeline, BASELINE)
    elif chosen.texts is not None:
        params |= {"texts": chosen.texts, "special_tokens": evaluation.special_tokens, "new_tokens": chosen.new_tokens}
    else:
        params |= {"windows": chosen.windows, "beginning": chosen.beginning, "new_tokens": chosen.new_tokens}
        inputs["tokens"] = pipeline.evaluation
    inputs["model"] = pipeline.model(name)
    return pipeline.context.run(samples, params, inputs, f"{name} samples")
