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

    def recover(self, model: TrainableModel) -> Recovered:
        """Train the model in place.

        Raises:
            InputError: the model, its masks or the windows are not what this method can work on.
            ComputationError: the loss is no number; the last good checkpoint stays.
        """
        ...


RECOVERIES: Registry[Recovery] = Registry("recovery", "pruning_core.recovery")
