"""Recovery: training that brings a pruned model's quality back and leaves removed weights removed."""

from typing import ClassVar, Protocol

from pruning_core.recovery.training.trainable_model import Recovered, TrainableModel
from pruning_core.registry import Registry


class Recovery(Protocol):
    """A recovery method: a frozen dataclass registered under its name; its fields are its params.yaml keys."""

    name: ClassVar[str]

    @property
    def needs_teacher(self) -> bool:
        """Whether it learns from the dense model."""
        ...

    @property
    def batch(self) -> int:
        """Windows per optimizer step."""
        ...

    @property
    def validate_every(self) -> int:
        """Steps between two points of the loss curve."""
        ...

    @property
    def keep(self) -> str:
        """Whose weights are the result: those of the last step, or of the best point."""
        ...

    def total(self, windows: int) -> int:
        """Optimizer steps over that many training windows."""
        ...

    def windows_per_forward(self, length: int) -> int:
        """How many windows of `length` tokens go through the model at once."""
        ...

    def recover(self, model: TrainableModel) -> Recovered:
        """Train the model in place.

        Raises:
            InputError: the model, its masks or the windows are not what this method can work on.
            ComputationError: the loss is no number; the last good checkpoint stays.
        """
        ...


RECOVERIES: Registry[Recovery] = Registry("recovery", "pruning_core.recovery")
