"""The steps of an allocation: sensitivities, level errors, a search."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pruning_core.allocation import Request
from pruning_core.allocation.evolutionary import Evolutionary
from pruning_core.compress.shares import target_of, unit_of
from pruning_core.errors import InputError
from pruning_core.sensitivity import SENSITIVITIES, wants_statistics
from pruning_core.settings.recipe import Recipe
from pruning_core.settings.windows import Calibration
from tasks.pipeline.inputs import Inputs
from tasks.steps.allocation import AllocationParams, allocation
from tasks.steps.hidden_states import load_tokens
from tasks.steps.levels import LevelsParams, levels
from tasks.steps.search import SearchParams, search
from tasks.steps.sensitivity import SensitivityParams, sensitivity
from tasks.store.artifact import Artifact


def allocate(shared: Inputs, recipe: Recipe) -> Artifact | None:
    """The allocation of a variant that has one; None where the driver only looks and it is not there yet."""
    if isinstance(recipe.allocation, Evolutionary):
        return search_allocation(shared, recipe)
    pattern = recipe.method.pattern
    params = AllocationParams(
        allocation=recipe.spec["allocation"],
        unit=unit_of(recipe.method),
        m=getattr(pattern, "m", None),
        target=target_of(recipe.method),
        trust_remote_code=shared.trust,
    )
    inputs = {"source": shared.source}
    # Levels first: a menu that cannot be is told before any work is done.
    if "levels" in recipe.allocation.needs:
        inputs |= compressed_levels(shared, recipe)
    if recipe.allocation.sensitivity_spec is not None:
        inputs["sensitivity"] = measured_sensitivity(shared, recipe.allocation.sensitivity_spec, recipe)
    return shared.context.run(allocation, params, inputs, f"{recipe.name} allocation")


def search_allocation(shared: Inputs, recipe: Recipe) -> Artifact | None:
    """Search the allocation of a variant whose recipe has an evolutionary one.

    Raises:
        InputError: the search would see text that variants are evaluated on.
    """
    settings, unit = recipe.allocation, unit_of(recipe.method)
    request = Request(shared.matrices, unit, getattr(recipe.method.pattern, "m", None), target_of(recipe.method))
    text = settings.text or shared.settings.calibration.text
    windows = Calibration(text, settings.windows + settings.validation, settings.length, "spread", settings.seed)
    inputs = {"source": shared.source, "tokens": shared.calibration_windows(windows, "search")}
    check_held_out(inputs["tokens"], shared.evaluation)
    for number, start in enumerate(settings.starts):
        if start.sensitivity_spec is not None:
            inputs[f"sensitivity-{number}"] = measured_sensitivity(shared, start.sensitivity_spec, recipe)
    inputs |= compressed_levels(shared, recipe)
    params = SearchParams(
        allocation=recipe.spec["allocation"],
        unit=request.unit,
        m=request.m,
        target=request.target,
        workers=asdict(shared.settings.compute.workers),
        **shared.on_device,
    )
    return shared.context.run(search, params, inputs, f"{recipe.name} search")


def check_held_out(search_text: Artifact | None, evaluation: Artifact | None) -> None:
    """Raise InputError if the search text shares windows with the evaluation text."""
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


def measured_sensitivity(shared: Inputs, spec: Mapping[str, Any], recipe: Recipe) -> Artifact | None:
    """The profile of a sensitivity; one that looks at how matrices are pruned depends on the recipe's method."""
    measure = SENSITIVITIES.build(spec)
    method = recipe.method_spec if "method" in measure.needs else None
    params = SensitivityParams(sensitivity=dict(spec), method=method, **shared.on_device)
    inputs = {"source": shared.source}
    if "tokens" in measure.needs:
        inputs["tokens"] = shared.calibration
    if wants_statistics(measure.needs, recipe.method):
        inputs |= {f"statistics-{index}": shared.statistics(index) for index in range(shared.depth)}
    return shared.context.run(sensitivity, params, inputs, f"{spec['name']} sensitivity")


def compressed_levels(shared: Inputs, recipe: Recipe) -> dict[str, Artifact | None]:
    """Every matrix at each of the levels that the recipe's allocation chooses from, a step per block."""
    unit, m = unit_of(recipe.method), getattr(recipe.method.pattern, "m", None)
    menu = recipe.allocation.levels_for(Request(shared.matrices, unit, m, target_of(recipe.method)))
    shares = menu.facts()["shares"]
    artifacts = {}
    for index in range(shared.depth):
        shares_of_block = {matrix.name: shares[matrix.name] for matrix in shared.matrices if matrix.block == index}
        params = LevelsParams(
            block=index, method=recipe.method_spec, unit=menu.unit, shares=shares_of_block, **shared.on_device
        )
        inputs = {"source": shared.source}
        if recipe.calibrates or recipe.levels_need_hessians:
            inputs["statistics"] = shared.statistics(index)
        label = f"{recipe.name} levels of block {index}"
        artifacts[f"levels-{index}"] = shared.context.run(levels, params, inputs, label)
    return artifacts
