"""Which steps find out how much of each matrix of a variant goes: sensitivities, level errors, a search."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pruning_core.allocation import Request
from pruning_core.allocation.evolutionary import Evolutionary
from pruning_core.errors import InputError
from pruning_core.recipe import Recipe
from pruning_core.sensitivity import SENSITIVITIES, wants_statistics
from pruning_core.shares import target_of, unit_of
from pruning_core.window_settings import Calibration
from tasks.allocation import allocation
from tasks.artifact import Artifact
from tasks.levels import levels
from tasks.search import search
from tasks.sensitivity import sensitivity
from tasks.states import load_tokens

if TYPE_CHECKING:
    from tasks.pipeline import Pipeline


def allocate(pipeline: "Pipeline", recipe: Recipe) -> Artifact | None:
    """The allocation of a variant that has one; None where the driver only looks and it is not there yet."""
    if isinstance(recipe.allocation, Evolutionary):
        return searched(pipeline, recipe)
    pattern = recipe.method.pattern
    params = {
        "allocation": recipe.spec["allocation"],
        "unit": unit_of(recipe.method),
        "m": getattr(pattern, "m", None),
        "target": target_of(recipe.method),
        "trust_remote_code": pipeline.trust,
    }
    inputs = {"source": pipeline.source}
    # Levels first: a menu that cannot be is told before any work is done.
    if "levels" in recipe.allocation.needs:
        inputs |= compressed_levels(pipeline, recipe)
    if recipe.allocation.sensitivity_spec is not None:
        inputs["sensitivity"] = measured_sensitivity(pipeline, recipe.allocation.sensitivity_spec, recipe)
    return pipeline.context.run(allocation, params, inputs, f"{recipe.name} allocation")


def searched(pipeline: "Pipeline", recipe: Recipe) -> Artifact | None:
    """The allocation that a search finds for a variant whose recipe says how to search.

    Raises:
        InputError: the search would see text that variants are judged on.
    """
    settings, unit = recipe.allocation, unit_of(recipe.method)
    request = Request(pipeline.matrices, unit, getattr(recipe.method.pattern, "m", None), target_of(recipe.method))
    text = settings.text or pipeline.settings.calibration.text
    windows = Calibration(text, settings.windows + settings.validation, settings.length, "spread", settings.seed)
    inputs = {"source": pipeline.source, "tokens": pipeline.sampled(windows, "search")}
    check_held_out(inputs["tokens"], pipeline.evaluation)
    for number, chosen in enumerate(settings.starts):
        if chosen.sensitivity_spec is not None:
            inputs[f"sensitivity-{number}"] = measured_sensitivity(pipeline, chosen.sensitivity_spec, recipe)
    inputs |= compressed_levels(pipeline, recipe)
    params = {
        "allocation": recipe.spec["allocation"],
        "unit": request.unit,
        "m": request.m,
        "target": request.target,
        "trust_remote_code": pipeline.trust,
        **{name: pipeline.forwards[name] for name in ("device", "dtype")},
        "workers": asdict(pipeline.settings.compute.workers),
    }
    return pipeline.context.run(search, params, inputs, f"{recipe.name} search")


def check_held_out(search_text: Artifact | None, evaluation: Artifact | None) -> None:
    """Raise InputError where a search would be told its result by the text that it is judged on afterwards."""
    if search_text is None or evaluation is None:
        return
    if search_text.facts["text_digest"] == evaluation.facts["text_digest"]:
        raise InputError(
            "the search text is the evaluation text, so the search would see what it is judged on; set allocation.text "
            "or calibration.text to another text or split"
        )
    seen = {bytes(row.numpy().data) for row in load_tokens(search_text)}
    if any(bytes(row.numpy().data) in seen for row in load_tokens(evaluation)):
        raise InputError(
            "a window of the search text is also one of the evaluation; set allocation.text to another text"
        )


def measured_sensitivity(pipeline: "Pipeline", spec: Mapping[str, Any], recipe: Recipe) -> Artifact | None:
    """The profile of a sensitivity; one that looks at how matrices are pruned depends on the recipe's method."""
    measure = SENSITIVITIES.build(spec)
    running = {name: pipeline.forwards[name] for name in ("device", "dtype")}
    params = {"sensitivity": dict(spec), "trust_remote_code": pipeline.trust, **running}
    inputs = {"source": pipeline.source}
    if "method" in measure.needs:
        params["method"] = recipe.method_spec
    if "tokens" in measure.needs:
        inputs["tokens"] = pipeline.calibration
    if wants_statistics(measure, recipe.method):
        inputs |= {f"statistics-{index}": pipeline.statistics(index) for index in range(pipeline.depth)}
    return pipeline.context.run(sensitivity, params, inputs, f"{spec['name']} sensitivity")


def compressed_levels(pipeline: "Pipeline", recipe: Recipe) -> dict[str, Artifact | None]:
    """Every matrix at each of the levels that the recipe's allocation chooses from, a step per block."""
    unit, m = unit_of(recipe.method), getattr(recipe.method.pattern, "m", None)
    menu = recipe.allocation.levels_for(Request(pipeline.matrices, unit, m, target_of(recipe.method)))
    shares = menu.facts()["shares"]
    running = {name: pipeline.forwards[name] for name in ("device", "dtype")}
    found = {}
    for index in range(pipeline.depth):
        own = {matrix.name: shares[matrix.name] for matrix in pipeline.matrices if matrix.block == index}
        params = {"block": index, "method": recipe.method_spec, "unit": menu.unit, "shares": own}
        params |= {"trust_remote_code": pipeline.trust, **running}
        inputs = {"source": pipeline.source}
        if recipe.calibrates or recipe.levels_need_hessians:
            inputs["statistics"] = pipeline.statistics(index)
        label = f"{recipe.name} levels of block {index}"
        found[f"levels-{index}"] = pipeline.context.run(levels, params, inputs, label)
    return found
