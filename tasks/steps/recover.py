"""Step: train a pruned model to recover quality; its zeros stay where they are."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pruning_core.checkpoint.file_names import CODES
from pruning_core.errors import ComputationError, InputError
from pruning_core.evaluation.perplexity import perplexity
from pruning_core.model.whole_model import WholeDecoder, load_whole
from pruning_core.recovery import RECOVERIES
from pruning_core.recovery.training.trainable_model import TrainableModel, check_masks
from pruning_core.settings.compute import Running
from tasks.engine.step import Context, step
from tasks.progress import progress
from tasks.steps.hidden_states import exclusive, load_tokens
from tasks.steps.recover_output import masks_of, write_model
from tasks.steps.running import OnDevice
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import write_json

CURVE = "loss_curve.json"
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class RecoverParams(OnDevice):
    """The training of a model.

    Args:
        recovery: as in a recipe.
        batch: windows per forward of a validation.
        dtype: of products in forward passes, float32 or bfloat16.
        libraries: as `libraries_of` gives them.
        checkpoint_every: steps.
    """

    recovery: dict[str, Any]
    batch: int
    libraries: dict[str, str]
    checkpoint_every: int


def recovery_modules(params: RecoverParams) -> list[str]:
    """The modules of the method that these params choose, and of the pattern that it may grow into."""
    method = RECOVERIES.build(params.recovery)
    gradual = getattr(method, "gradual", None)
    return [type(method).__module__, *([type(gradual().pattern).__module__] if gradual else [])]


@step("recovered", modules=recovery_modules, unkeyed=("checkpoint_every",))
def recover(params: RecoverParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """Train a model under its masks, or one that was made smaller, or a dense one that is pruned on the way.

    inputs: model; windows (of `tasks.steps.recovery_windows`); and source, the dense model, where the method learns
        from it or its loss is to be told.
    writes: what `tasks.steps.assemble` writes, of the trained model; loss_curve.json {part of the model: points}.
    """
    method = RECOVERIES.build(params.recovery)
    _check(params, inputs, method.name, method.needs_teacher)
    tokens, validation = (load_tokens(inputs["windows"], name) for name in ("tokens", "validation"))
    # Training draws from torch's own generator, which threads share.
    with exclusive:
        decoder, teacher = (_whole(params, inputs.get(name)) for name in ("model", "source"))
        subject = TrainableModel(
            decoder,
            masks_of(inputs["model"], decoder),
            tokens,
            validation,
            context.scratch,
            teacher=teacher if method.needs_teacher else None,
            checkpoint_every=params.checkpoint_every,
            dtype=params.dtype,
            progress=progress("recovery"),
        )
        removed = check_masks(subject)
        losses = {"dense": _loss(teacher, validation, params), "before": _loss(decoder, validation, params)}
        if not method.needs_teacher:
            del teacher
        recovered = method.recover(subject)
        losses["after"] = _loss(decoder, validation, params)
        facts = write_model(inputs["model"], subject, recovered, out)
    write_json(out / CURVE, recovered.curves)
    after = sum(int((~keep).sum()) for keep in recovered.masks.values())
    result = _recovery_facts(losses, removed, after) | {"dropped_windows": inputs["windows"].facts["dropped"]}
    recipe = facts.get("recipe", {}) | {"recovery": params.recovery}
    result |= {"steps": _steps(recovered.curves), "history": recovered.history}
    return {"ledger": []} | facts | {"recipe": recipe, "recovery": result}


def libraries_of(recovery: dict[str, Any]) -> dict[str, str]:
    """Versions of the libraries that only this method uses, for the step's params: a part of its key."""
    return {"peft": importlib.metadata.version("peft")} if recovery.get("name") == "lora" else {}


def _check(params: RecoverParams, inputs: dict[str, Artifact], name: str, needs_teacher: bool) -> None:
    if (inputs["model"].path / CODES).is_file():
        raise InputError(
            "the model is quantized, and training would leave its grids; recover it before it is quantized"
        )
    if needs_teacher and "source" not in inputs:
        raise InputError(f"{name} learns from the dense model; give it as source")
    if params.dtype not in DTYPES:
        raise InputError(
            f"recovery runs in {' or '.join(DTYPES)}, got {params.dtype}, whose gradients vanish; set compute.dtype"
        )


def _whole(params: RecoverParams, model: Artifact | None) -> WholeDecoder | None:
    device = Running(params.device).torch_device
    return load_whole(model.path, params.trust_remote_code, device=device) if model else None


def _loss(decoder: WholeDecoder | None, windows: Tensor, params: RecoverParams) -> float | None:
    """Nats per token."""
    return perplexity(decoder.model, windows, params.batch).mean_loss if decoder else None


def _recovery_facts(losses: dict[str, float | None], removed: int, after: int) -> dict[str, Any]:
    """validation_loss, the share of the gap to the dense model that was closed, and removed weights.

    Raises:
        ComputationError: fewer weights are removed than before.
    """
    if after < removed:
        raise ComputationError(f"{removed - after} removed weights came back during recovery")
    gap = losses["before"] - losses["dense"] if losses["dense"] is not None else 0.0
    return {
        "validation_loss": losses,
        "recovered_share": (losses["before"] - losses["after"]) / gap if gap > 0 else None,
        "removed": {"before": removed, "after": after},
    }


def _steps(curves: dict[str, list[dict[str, Any]]]) -> int:
    return sum(points[-1]["step"] for points in curves.values())
