"""Which steps make a variant whose channels and heads go: their scores, then ranking, refitting and surgery."""

from typing import TYPE_CHECKING

from pruning_core.recipe import Recipe
from tasks.artifact import Artifact
from tasks.structured_importance import structured_importance
from tasks.structured_prune import structured_prune

if TYPE_CHECKING:
    from tasks.pipeline import Pipeline


def group_scores(pipeline: "Pipeline", recipe: Recipe) -> Artifact | None:
    """The scores of every channel and head, which plans of any ratio share."""
    wanted = recipe.structured
    params = {"importance": wanted.spec["importance"], "families": list(wanted.families), **_running(pipeline)}
    inputs = {"source": pipeline.source}
    if "tokens" in wanted.importance.needs:
        inputs["tokens"] = pipeline.calibration
    label = f"{wanted.importance.name} importance"
    return pipeline.context.run(structured_importance, params, inputs, label)


def shrunk(pipeline: "Pipeline", recipe: Recipe) -> Artifact | None:
    """The smaller model; None where the driver only looks and it is not there yet."""
    wanted = recipe.structured
    params = {
        "recipe": recipe.compression_spec,
        "ranking": wanted.ranking_spec,
        "reconstruction": wanted.spec.get("reconstruction"),
        **_running(pipeline),
    }
    inputs = {"source": pipeline.source, "scores": group_scores(pipeline, recipe)}
    if wanted.reconstruction is not None:
        inputs["tokens"] = pipeline.calibration
    return pipeline.context.run(structured_prune, params, inputs, f"{recipe.name} model")


def _running(pipeline: "Pipeline") -> dict:
    """How the model runs, without what changes no result here."""
    return {name: value for name, value in pipeline.forwards.items() if name not in ("states", "shards")}
