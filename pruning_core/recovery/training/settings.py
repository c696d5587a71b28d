"""Training settings that all recoveries share: how long, how fast, and which windows when."""

import functools
import math
from typing import Annotated, ClassVar, Literal

import pydantic.dataclasses
import torch
from pydantic import Field, model_validator
from torch import Tensor

from pruning_core.calibration.hidden_states import micro_batch
from pruning_core.errors import InputError
from pruning_core.registry import STRICT


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Training:
    """AdamW over shuffled windows, with a warm-up and a decaying learning rate."""

    name: ClassVar[str]
    """Given by the registry."""
    default_steps: ClassVar[int | None] = None
    default_epochs: ClassVar[float] = 1.0

    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps; give these or epochs."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """How often every window is seen."""
    batch: Annotated[int, Field(ge=1)] = 16
    """Windows per optimizer step."""
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    """Windows per forward; when absent as many as make 2,048 tokens."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """The highest of the run."""
    warmup: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Steps in which the learning rate rises: a whole number of them, or their share of all."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls to 0 after the warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of matrices; vectors never decay."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of the gradient, taken after masking; null for none."""
    validate_every: Annotated[int, Field(ge=1)] = 50
    """Steps between two points of the loss curve."""
    keep: Literal["last", "best"] = "last"
    """Whose weights are the result: the last step's, or those of the curve's point with the lowest validation loss."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """For the order of windows, and where adapters begin and drop."""

    @model_validator(mode="after")
    def _one_length(self) -> "Training":
        if self.steps is not None and self.epochs is not None:
            raise ValueError("steps and epochs both say how long; give one of them")
        return self

    def total(self, windows: int) -> int:
        """Optimizer steps over that many training windows.

        Raises:
            InputError: the warm-up is as long as the run.
        """
        steps = self.steps if self.steps or self.epochs else self.default_steps
        total = steps or math.ceil((self.epochs or self.default_epochs) * windows / self.batch)
        if self.warmup_steps(total) >= total:
            raise InputError(
                f"a warm-up of {self.warmup} steps leaves none of {total}; lower warmup or train for longer"
            )
        return total

    def warmup_steps(self, total: int) -> int:
        """Steps before the learning rate is at its highest."""
        return self.warmup if isinstance(self.warmup, int) else int(self.warmup * total)

    def rate(self, step: int, total: int) -> float:
        """Learning rate of `step`, counted from 0."""
        warm = self.warmup_steps(total)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / (total - warm)
        return self.learning_rate * (1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2)

    def rows(self, step: int, windows: int) -> Tensor:
        """[batch] int64, the windows of a step: epoch after epoch, each in an order of its own."""
        places = range(step * self.batch, (step + 1) * self.batch)
        return torch.stack([_order(self.seed, place // windows, windows)[place % windows] for place in places])

    def windows_per_forward(self, length: int) -> int:
        """How many windows of `length` tokens go through the model at once."""
        return min(self.batch, micro_batch(length, self.micro_batch))


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, windows: int) -> Tensor:
    return torch.randperm(windows, generator=torch.Generator().manual_seed((seed << 31) + epoch))


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class LanguageTraining(Training):
    """Next-token loss in nats, and optionally the dense model's predictions: CE + d T^2 KL(dense || model).

    Both distributions of the second term are softened by T, and T^2 keeps its gradient's size (arXiv:1503.02531).
    """

    distillation: Annotated[float, Field(ge=0)] = 0.0
    """d, the weight of the second term."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """T; 2 when absent."""

    @model_validator(mode="after")
    def _temperature_of_something(self) -> "LanguageTraining":
        if self.temperature is not None and not self.distillation:
            raise ValueError("temperature changes nothing without distillation; remove it or set distillation")
        return self

    @property
    def needs_teacher(self) -> bool:
        """Whether it learns from the dense model."""
        return self.distillation > 0
