"""The steps of the text samples in params.yaml: the dense model continues the prompts first, then the variant."""

from collections.abc import Callable

from pruning_core.settings.recipe import BASELINE
from pruning_core.settings.samples import build_samples
from tasks.pipeline.inputs import Inputs
from tasks.steps.samples import SamplesParams, samples
from tasks.store.artifact import Artifact


def continuations(shared: Inputs, model_of: Callable[[str], Artifact | None], name: str) -> Artifact | None:
    """A variant's continuations; None where params.yaml has no samples, or the driver only looks and they are missing.

    The prompts are beginnings of evaluation windows, never of calibration text, or those that params.yaml gives.

    Args:
        model_of: the model of a variant, by its name.
    """
    evaluation = shared.settings.evaluation
    if evaluation.samples is None:
        return None
    spec = build_samples(evaluation.samples, evaluation.length, evaluation.windows)
    prompts, inputs = {}, {}
    if name != BASELINE:
        inputs["baseline"] = continuations(shared, model_of, BASELINE)
    elif spec.texts is not None:
        prompts = {
            "texts": spec.texts,
            "special_tokens": evaluation.special_tokens,
            "new_tokens": spec.new_tokens,
        }
    else:
        prompts = {"windows": spec.windows, "beginning": spec.beginning, "new_tokens": spec.new_tokens}
        inputs["tokens"] = shared.evaluation
    inputs["model"] = model_of(name)
    params = SamplesParams(trust_remote_code=shared.trust, device=shared.on_device["device"], **prompts)
    return shared.context.run(samples, params, inputs, f"{name} samples")
