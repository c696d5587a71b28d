"""Advice on how to make a run fit, by the phase that needs too much memory."""

from pruning_core.plan.estimate import ResourceEstimate
from pruning_core.settings.recipe import Recipe, Settings

LARGER = "use a larger machine"


def advice(settings: Settings, plan: ResourceEstimate, phase: str) -> str:
    """What to change, as half a sentence.

    Args:
        phase: the one of `plan.memory` that needs most.
    """
    recipe = settings.recipe(plan.variant)
    if phase == "allocation":
        return "take an allocation that needs no whole model, such as owl, or fewer compute.workers for a search"
    if phase in ("assemble", "surgery"):
        return LARGER
    if phase == "validation":
        smaller = [f"a smaller evaluation.batch than {settings.evaluation.batch}"] * (settings.evaluation.batch > 1)
        return _join([*smaller, f"else {LARGER}: the model and the dense one are compared in float32"])
    if phase == "recovery":
        return _join(_of_recovery(recipe, settings))
    if phase in ("importance", "least squares"):
        return _join(_of_structured(recipe, settings, plan, phase))
    if not recipe.reads_calibration_text:
        return LARGER
    return _join(_of_calibration(recipe, settings, plan))


def _join(ways: list[str]) -> str:
    return f"try {', '.join(ways)}" if ways else LARGER


def _of_calibration(recipe: Recipe, settings: Settings, plan: ResourceEstimate) -> list[str]:
    ways = _of_windows(settings, plan)
    if settings.compute.states != "mapped":
        ways.append("compute.states: mapped")
    if recipe.propagate == "compressed":
        ways.append("propagate: blockwise")
    return ways


def _of_windows(settings: Settings, plan: ResourceEstimate) -> list[str]:
    ways = ["calibration.batch: 1"] if plan.model.batch > 1 else []
    return [*ways, f"fewer calibration.sequences than {settings.calibration.sequences}"]


def _of_structured(recipe: Recipe, settings: Settings, plan: ResourceEstimate, phase: str) -> list[str]:
    structured = recipe.structured
    if phase == "importance":
        if "whole" in structured.importance.needs:
            return [f"a smaller calibration.length than {settings.calibration.length}", "importance: {name: column}"]
        return _of_windows(settings, plan) if "tokens" in structured.importance.needs else []
    return [
        *_of_windows(settings, plan),
        *(["reconstruction.form: static"] if structured.reconstruction.form == "absorbing" else []),
    ]


def _of_recovery(recipe: Recipe, settings: Settings) -> list[str]:
    method, data = recipe.recovery.method, recipe.recovery.data
    length = data.length or settings.calibration.length
    ways = ["recovery.micro_batch: 1"] if method.windows_per_forward(length) > 1 else []
    if method.name == "block_reconstruction":
        return [*ways, f"fewer recovery.data.sequences than {data.sequences}"]
    ways.append(f"a smaller recovery.data.length than {length}")
    if getattr(method, "trained", None) == "all":
        ways.append("recovery.trained: matrices")
    if method.name == "sparse_finetune":
        # Which trains few numbers, and keeps gradients and moments of these alone.
        ways.append("recovery.name: lora" if recipe.structured else "recovery.name: masked_lora")
    if getattr(method, "distillation", 0):
        ways.append("no distillation, which holds the dense model")
    if getattr(method, "keep", None) == "best":
        ways.append("recovery.keep: last")
    return ways
