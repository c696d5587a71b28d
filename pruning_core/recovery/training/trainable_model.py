"""The model that a recovery trains, and the outcome."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pruning_core.errors import ComputationError, InputError
from pruning_core.model.decoder import Decoder, matrix
from pruning_core.progress import Progress, ignore_progress


@dataclass(frozen=True)
class TrainableModel:
    """A compressed model in float32, the text it learns from and the dense model it may learn from."""

    decoder: Decoder
    """Whole, by `load_whole`; trained in place."""
    masks: dict[str, Tensor] = field(repr=False)
    """Matrix name -> [out, in] bool, True where a weight survives; empty for a model without masks."""
    tokens: Tensor = field(repr=False)
    """Training windows [windows, length] int64."""
    validation: Tensor = field(repr=False)
    """Validation windows [windows, length] int64, of other text than `tokens`."""
    checkpoints: Path
    """An own folder for checkpoints; what lies there is gone on with."""
    teacher: Decoder | None = None
    """The dense model, whole too."""
    checkpoint_every: int = 50
    """Steps between two checkpoints; changes no result."""
    dtype: str = "float32"
    """Of the products in forward passes; weights, gradients and moments are float32 whatever it is."""
    progress: Progress = ignore_progress

    def matrices(self) -> dict[str, nn.Module]:
        """Every prunable matrix of the model: name -> module."""
        return {
            name: module for index in range(len(self.decoder)) for name, module in self.decoder.linears(index).items()
        }


@dataclass
class Recovered:
    """The outcome; the weights are those of the model."""

    changed: list[str]
    """Names of the model's parameters that were trained."""
    masks: dict[str, Tensor] = field(repr=False)
    """As in `TrainableModel`."""
    curves: dict[str, list[dict[str, Any]]]
    """Part of the model ("model" for all of it) -> points of step, train_loss, validation_loss, learning_rate."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """What masks went through on the way."""


def check_masks(model: TrainableModel) -> int:
    """How many weights the masks remove; all of them are zero.

    Raises:
        InputError: the masks are not of this model, or a removed weight is not zero.
    """
    if not model.masks:
        return 0
    matrices = model.matrices()
    if model.masks.keys() != matrices.keys():
        other = sorted(model.masks.keys() ^ matrices.keys())[0]
        raise InputError(f"the masks are of another model: {other} is in one of the two only")
    for name, keep in model.masks.items():
        weight = matrix(matrices[name])
        if weight.shape != keep.shape:
            raise InputError(f"the mask of {name} is {list(keep.shape)} and the matrix {list(weight.shape)}")
        if left := lost_zeros(weight, keep):
            raise InputError(
                f"{name} has {left} weights that its mask removes; take the masks that belong to the model"
            )
    return sum(int((~keep).sum()) for keep in model.masks.values())


def lost_zeros(weight: Tensor, keep: Tensor) -> int:
    """How many weights that `keep` removes are not zero, NaN included."""
    return int(((weight != 0) & ~keep.to(weight.device)).sum())


def require_zeros(model: TrainableModel, masks: dict[str, Tensor]) -> None:
    """Raise ComputationError where a removed weight came back: no recovery may trade sparsity for quality."""
    matrices = model.matrices()
    for name, keep in masks.items():
        if left := lost_zeros(matrix(matrices[name]), keep):
            raise ComputationError(f"{name}: {left} removed weights came back during recovery")
