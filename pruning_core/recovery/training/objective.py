"""Training objective, and the state of a run at a step boundary."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pruning_core.errors import InputError, required
from pruning_core.recovery.training.settings import Training


class Objective(ABC):
    """What is trained and what for.

    Args:
        parameters: name -> leaf that is trained; float32.
        windows: training windows there are.
        micro_batch: windows per forward.
        masks: parameter name -> bool in the parameter's own layout, True where a weight survives.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        windows: int,
        micro_batch: int,
        masks: dict[str, Tensor] | None = None,
    ) -> None:
        self.parameters = parameters
        self.windows = windows
        self.micro_batch = micro_batch
        self.masks = masks or {}

    @abstractmethod
    def loss(self, rows: Tensor) -> Tensor:
        """Mean loss over the training windows `rows` [rows] int64, ready for backward."""

    @abstractmethod
    def held_out(self) -> float:
        """Mean loss over the validation windows."""

    def change_masks(self, step: int) -> bool:
        """Called before step `step`, counted from 0; whether `masks` are now others."""
        return False

    def rate(self, settings: Training, step: int, total: int) -> float:
        """Learning rate of `step`."""
        return settings.rate(step, total)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Removed weights get no gradient: they must neither move nor count when gradients are clipped."""
        for name, keep in self.masks.items():
            required(self.parameters[name].grad, f"the gradient of {name}").masked_fill_(~keep, 0.0)

    @torch.no_grad()
    def project(self, optimizer: torch.optim.Optimizer) -> None:
        """Removed weights become zero, and the optimizer forgets them: a moment from before would move them again."""
        for name, keep in self.masks.items():
            parameter = self.parameters[name]
            for values in (parameter, *moments(optimizer, parameter)):
                values.masked_fill_(~keep, 0.0)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold beside parameters and moments."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`.

        Raises:
            InputError: there are none to restore.
        """
        if tensors:
            raise InputError(f"the checkpoint holds {min(tensors)}, which this run knows nothing of")


def moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> list[Tensor]:
    """The running means of a parameter's gradient and its square; none before the first step."""
    state = optimizer.state.get(parameter, {})
    return [state[key] for key in ("exp_avg", "exp_avg_sq") if key in state]


@dataclass
class State:
    """A run at a step boundary: `step` steps are done."""

    optimizer: torch.optim.AdamW
    step: int = 0
    loss_sum: float = 0.0
    """Training losses since the last point of the curve."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """The parameters at the lowest validation loss, where those are kept."""
