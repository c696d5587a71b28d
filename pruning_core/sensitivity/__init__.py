"""Sensitivities: how much a model suffers where a matrix is pruned; larger means prune it less."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor

from pruning_core.calibration.staged_forward import InputGroup
from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.compress.method import Method
from pruning_core.compress.shares import Matrix
from pruning_core.errors import required
from pruning_core.model.decoder import Decoder
from pruning_core.progress import Progress
from pruning_core.registry import Registry

Statistics = Callable[[int], list[tuple[InputGroup, LayerStatistics]]]
"""Index of a block -> the input groups of the dense model with the statistics of their inputs."""


@dataclass(frozen=True)
class SensitivityInputs:
    """What a sensitivity may look at; only what its `needs` ask for is set."""

    matrices: tuple[Matrix, ...]
    """The prunable matrices in model order."""
    decoder: Decoder | None = field(default=None, repr=False)
    """"model": whole, by `load_whole`; "weights": any decoder, its blocks are loaded one at a time where they are not
    in memory."""
    windows: Tensor | None = field(default=None, repr=False)
    """"tokens": [windows, length] int64 token ids."""
    statistics: Statistics | None = field(default=None, repr=False)
    """"statistics": those of the dense model."""
    method: Method | None = None
    """"method": how a matrix would be pruned."""

    @property
    def model(self) -> Decoder:
        """`decoder`, of a sensitivity that needs the model or its weights."""
        return required(self.decoder, "the model of a sensitivity")

    @property
    def tokens(self) -> Tensor:
        """`windows`, of a sensitivity that needs tokens."""
        return required(self.windows, "the calibration windows of a sensitivity")

    @property
    def block_statistics(self) -> Statistics:
        """`statistics`, of a sensitivity that needs them."""
        return required(self.statistics, "the statistics of a sensitivity")

    @property
    def pruning(self) -> Method:
        """`method`, of a sensitivity that prunes with one."""
        return required(self.method, "the method of a sensitivity")


@dataclass(frozen=True)
class Profile:
    """The sensitivities of a model, all finite; their unit is the sensitivity's own."""

    matrices: dict[str, float]
    """Matrix -> sensitivity, larger = prune less; never negative."""
    blocks: list[float]
    """The same per block."""
    errors: dict[str, float] | None = None
    """Standard error per matrix, where the sensitivity is the mean of a sample of more than one."""
    block_errors: list[float] | None = None
    details: dict[str, Any] = field(default_factory=dict)
    """JSON facts on how it was measured: sequences, probes, half-sample rank correlation, clamped values, ..."""

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of_facts(cls, facts: dict[str, Any]) -> "Profile":
        """The inverse of `facts`."""
        return cls(**facts)


class Sensitivity(Protocol):
    """A sensitivity: a frozen dataclass registered under its name; its fields are its params.yaml keys."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    """Subset of {"model", "weights", "tokens", "statistics", "method"}; see `wants_statistics`."""

    def measure(self, inputs: SensitivityInputs, progress: Progress) -> Profile:
        """The profile of the inputs, whose decoder is left as it was."""
        ...


SENSITIVITIES: Registry[Sensitivity] = Registry("sensitivity", "pruning_core.sensitivity")


def wants_statistics(needs: frozenset[str], method: Method | None) -> bool:
    """Whether a sensitivity of these needs needs statistics: one that prunes needs those which the method needs."""
    if "statistics" not in needs:
        return False
    return "method" not in needs or (method is not None and method.statistics != "none")
