"""Patterns: where zeros may be, and how many."""

from typing import ClassVar, Protocol

from torch import Tensor

from pruning_core.column_sweep import Choice
from pruning_core.registry import Registry


class Pattern(Protocol):
    """A sparsity pattern: a frozen dataclass registered under its name; its fields are its params.yaml keys."""

    name: ClassVar[str]
    takes_sparsity: ClassVar[bool]
    """False where the pattern fixes the sparsity itself (N:M)."""

    def check(self, in_features: int) -> None:
        """Raise InputError when a layer of that many inputs cannot have this pattern."""
        ...

    def column_sweep_choice(self, sparsity: float | None) -> Choice | None:
        """How a column sweep chooses on compensated weights; None: the mask is chosen once, before it."""
        ...

    def removed(self, score: Tensor, sparsity: float | None, block: int) -> Tensor:
        """[rows, in] bool, True where a weight goes, for a whole matrix of scores."""
        ...

    def fault(self, keep: Tensor, sparsity: float | None) -> str | None:
        """What is wrong with a mask [rows, in] that claims to follow this pattern; None when nothing is."""
        ...


PATTERNS: Registry[Pattern] = Registry("pattern", "pruning_core.patterns")
