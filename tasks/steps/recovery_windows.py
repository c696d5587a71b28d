"""Step: the training and validation windows of a recovery, none of them shared with the evaluation text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pruning_core.errors import InputError
from pruning_core.recovery.training.text_overlap import shared_windows, without_overlap
from tasks.engine.step import Context, step
from tasks.steps.hidden_states import load_tokens
from tasks.store.artifact import Artifact


@dataclass(frozen=True, kw_only=True)
class RecoveryWindowsParams:
    """What is set apart and what is left out.

    Args:
        validation: how many windows are set apart.
        overlap: refuse, or drop windows that share text with the evaluation windows.
    """

    validation: int
    overlap: str


@step("recovery_windows")
def recovery_windows(
    params: RecoveryWindowsParams, inputs: dict[str, Artifact], out: Path, context: Context
) -> dict[str, Any]:
    """Training and validation windows that share no text with the evaluation nor with each other.

    A step by itself: where other evaluation windows leave these as they are, nothing is trained again.

    inputs: tokens, evaluation.
    writes: tokens.safetensors {tokens: [windows, length] int64, validation: [windows, length] int64}; facts: how many
        windows were left out, {training, validation}.

    Raises:
        InputError: overlap that is refused, or nothing left to train or to validate on.
    """
    if inputs["tokens"].facts["text_digest"] == inputs["evaluation"].facts["text_digest"]:
        raise InputError(
            "the training text is the evaluation text, so the result would look better than it is; set "
            "recovery.data.text to another text or split"
        )
    evaluation = load_tokens(inputs["evaluation"])
    training, validation = _set_apart(load_tokens(inputs["tokens"]), params.validation)
    training, dropped = without_overlap(training, evaluation, "training", params.overlap)
    validation, left_out = without_overlap(validation, evaluation, "validation", params.overlap)
    seen = shared_windows(training, validation)
    training = training[~seen]
    if not len(training) or not len(validation):
        raise InputError("no windows are left to train or to validate on; give the recovery other or more text")
    save_file({"tokens": training, "validation": validation}, out / "tokens.safetensors")
    return {"dropped": {"training": dropped + int(seen.sum()), "validation": left_out}}


def _set_apart(windows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """All windows but `count`, and these, from all over the text."""
    if count >= len(windows):
        raise InputError(f"{count} of {len(windows)} windows are to be set apart, and none would be left to train on")
    places = torch.arange(count) * len(windows) // count
    apart = torch.zeros(len(windows), dtype=torch.bool).index_fill(0, places, True)
    return windows[~apart], windows[apart]
