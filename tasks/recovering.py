"""Which steps train a compressed variant: its windows, then the training."""

from typing import TYPE_CHECKING

from pruning_core.recipe import Recipe
from pruning_core.window_settings import Calibration
from tasks.artifact import Artifact
from tasks.recover import libraries_of, recover
from tasks.recovery_windows import recovery_windows

if TYPE_CHECKING:
    from tasks.pipeline import Pipeline


def training_text(pipeline: "Pipeline", recipe: Recipe) -> Artifact | None:
    """The windows that a variant with a recovery learns from, those set apart for validation among them."""
    data, calibration = recipe.recovery.data, pipeline.settings.calibration
    windows = Calibration(
        data.text or calibration.text,
        data.sequences + data.validation,
        data.length or calibration.length,
        data.sampling,
        data.seed,
    )
    return pipeline.sampled(windows, "recovery")


def recovered(pipeline: "Pipeline", recipe: Recipe, compressed: Artifact | None) -> Artifact | None:
    """A variant's model once it is trained; None where the driver only looks and it is not there yet."""
    recovering, running = recipe.recovery, pipeline.forwards
    params = {
        "recovery": recovering.spec,
        "batch": pipeline.settings.evaluation.batch,
        "trust_remote_code": pipeline.trust,
        "device": running["device"],
        "dtype": running["dtype"],
        "libraries": libraries_of(recovering.spec),
        "checkpoint_every": recovering.checkpoint_every,
    }
    chosen = {"validation": recovering.data.validation, "overlap": recovering.data.overlap}
    texts = {"tokens": training_text(pipeline, recipe), "evaluation": pipeline.evaluation}
    inputs = {
        "model": compressed,
        "windows": pipeline.context.run(recovery_windows, chosen, texts, "recovery windows"),
        "source": pipeline.source,
    }
    return pipeline.context.run(recover, params, inputs, f"{recipe.name} recovery")
