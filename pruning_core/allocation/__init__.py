"""Allocations: how much of each matrix goes, at one budget for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pruning_core.budget.counts import kept_counts, zero_counts
from pruning_core.budget.levels import Granularity, Levels, n_of_m_levels, unstructured_levels
from pruning_core.compress.shares import Matrix, Shares, Unit
from pruning_core.errors import required
from pruning_core.registry import Registry

if TYPE_CHECKING:
    from pruning_core.sensitivity import Profile


@dataclass(frozen=True)
class Request:
    """What an allocation decides on; of the last three, what its `needs` ask for is set."""

    matrices: tuple[Matrix, ...]
    unit: Unit
    """As the pattern has it: zeros for unstructured, n for n_of_m."""
    m: int | None
    """Of n_of_m."""
    target: float
    """The removed fraction of all matrices together."""
    profile: "Profile | None" = None
    levels: Levels | None = None
    errors: list[list[float]] | None = field(default=None, repr=False)
    """Per matrix the measured error of each of its levels."""

    @property
    def sizes(self) -> list[int]:
        """[matrices] weights."""
        return [matrix.size for matrix in self.matrices]

    @property
    def n(self) -> int:
        """What every matrix would keep of m alike."""
        return round(self.group * (1 - self.target))

    @property
    def group(self) -> int:
        """`m`, of a request whose unit is n."""
        return required(self.m, "the m of n:m")

    @property
    def sensitivities(self) -> "Profile":
        """`profile`, of an allocation that needs a sensitivity."""
        return required(self.profile, "the profile of sensitivities")

    def shares_near(self, sparsities: Sequence[float]) -> Shares:
        """Whole shares near a sparsity per matrix, at the budget."""
        if self.unit == "zeros":
            counts = zero_counts(sparsities, self.sizes, self.target)
        else:
            counts = kept_counts(sparsities, self.sizes, self.group, self.target)
        return self.shares_of(counts)

    def levels_between(
        self,
        low: float | None,
        high: float | None,
        *,
        count: int,
        step: int | None,
        menu: Sequence[int] | None,
        granularity: Granularity,
    ) -> Levels:
        """The levels of every matrix, as `pruning_core.budget.levels` makes them for the unit."""
        if self.unit == "zeros":
            return unstructured_levels(
                self.matrices, self.target, step=step, count=count, low=low, high=high, granularity=granularity
            )
        return n_of_m_levels(self.matrices, self.n, self.group, menu, low=low, high=high, granularity=granularity)

    def shares_of(self, counts: Sequence[int]) -> Shares:
        """The shares that give each matrix its number, in the order of the matrices."""
        return Shares(self.unit, {matrix.name: count for matrix, count in zip(self.matrices, counts, strict=True)})


class Allocation(Protocol):
    """An allocation: a frozen dataclass registered under its name; its fields are its params.yaml keys."""

    name: ClassVar[str]

    @property
    def needs(self) -> frozenset[str]:
        """Of "sensitivity" and "levels"."""
        ...

    @property
    def sensitivity_spec(self) -> Mapping[str, Any] | None:
        """The {name: ...} of the sensitivity that it needs; None where it needs none."""
        ...

    @property
    def meets_budget(self) -> bool:
        """False for a published form that misses the target, and is kept for comparison."""
        ...

    def check(self, unit: Unit, target: float) -> None:
        """Raise InputError where no model could be given `target` under these settings."""
        ...

    def shares(self, request: Request) -> Shares:
        """What goes of every matrix of the request."""
        ...


ALLOCATIONS: Registry[Allocation] = Registry("allocation", "pruning_core.allocation")
