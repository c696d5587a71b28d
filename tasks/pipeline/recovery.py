"""The steps that train a compressed variant: its windows, then the training."""

from pruning_core.settings.recipe import Recipe
from pruning_core.settings.windows import Calibration
from tasks.pipeline.inputs import Inputs
from tasks.steps.recover import RecoverParams, libraries_of, recover
from tasks.steps.recovery_windows import RecoveryWindowsParams, recovery_windows
from tasks.store.artifact import Artifact


def training_text(shared: Inputs, recipe: Recipe) -> Artifact | None:
    """The windows that a variant with a recovery learns from, those set apart for validation among them."""
    data, calibration = recipe.recovery.data, shared.settings.calibration
    windows = Calibration(
        data.text or calibration.text,
        data.sequences + data.validation,
        data.length or calibration.length,
        data.sampling,
        data.seed,
    )
    return shared.calibration_windows(windows, "recovery")


def recovered_model(shared: Inputs, recipe: Recipe, compressed: Artifact | None) -> Artifact | None:
    """A variant's model once it is trained; None where the driver only looks and it is not there yet."""
    recovering = recipe.recovery
    params = RecoverParams(
        recovery=recovering.spec,
        batch=shared.settings.evaluation.batch,
        libraries=libraries_of(recovering.spec),
        checkpoint_every=recovering.checkpoint_every,
        **shared.on_device,
    )
    windows_params = RecoveryWindowsParams(validation=recovering.data.validation, overlap=recovering.data.overlap)
    texts = {"tokens": training_text(shared, recipe), "evaluation": shared.evaluation}
    inputs = {
        "model": compressed,
        "windows": shared.context.run(recovery_windows, windows_params, texts, "recovery windows"),
        "source": shared.source,
    }
    return shared.context.run(recover, params, inputs, f"{recipe.name} recovery")
