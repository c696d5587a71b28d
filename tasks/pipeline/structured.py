"""The steps of structured pruning: scores of channels and heads, then ranking, refitting and surgery."""

from pruning_core.settings.recipe import Recipe
from tasks.pipeline.inputs import Inputs
from tasks.steps.structured_importance import ImportanceParams, structured_importance
from tasks.steps.structured_prune import StructuredPruneParams, structured_prune
from tasks.store.artifact import Artifact


def group_scores(shared: Inputs, recipe: Recipe) -> Artifact | None:
    """The scores of every channel and head, which plans of any ratio share."""
    structured = recipe.structured
    importance, families = structured.spec["importance"], list(structured.families)
    params = ImportanceParams(importance=importance, families=families, batch=shared.batch, **shared.on_device)
    inputs = {"source": shared.source}
    if "tokens" in structured.importance.needs:
        inputs["tokens"] = shared.calibration
    label = f"{structured.importance.name} importance"
    return shared.context.run(structured_importance, params, inputs, label)


def pruned_model(shared: Inputs, recipe: Recipe) -> Artifact | None:
    """The smaller model; None where the driver only looks and it is not there yet."""
    structured = recipe.structured
    params = StructuredPruneParams(
        recipe=recipe.compression_spec,
        ranking=structured.ranking_spec,
        reconstruction=structured.spec.get("reconstruction"),
        batch=shared.batch,
        **shared.on_device,
    )
    inputs = {"source": shared.source, "scores": group_scores(shared, recipe)}
    if structured.reconstruction is not None:
        inputs["tokens"] = shared.calibration
    return shared.context.run(structured_prune, params, inputs, f"{recipe.name} model")
