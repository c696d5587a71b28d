"""The allocation that a search finds: candidates judged by the whole model's KL to the dense one."""

from dataclasses import field
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pruning_core.allocation import ALLOCATIONS, Allocation, Request
from pruning_core.budget.counts import bounds_around
from pruning_core.budget.levels import Levels
from pruning_core.compress.shares import Shares, Unit
from pruning_core.errors import ComputationError, InputError

INITIAL = (
    {"name": "owl"},
    {"name": "by_sensitivity", "sensitivity": {"name": "fisher"}},
    {"name": "knapsack", "errors": "relative_output"},
    {"name": "knapsack", "errors": "fisher"},
)
"""The allocations that a search starts from when nothing else is said, beside the uniform one."""


@ALLOCATIONS.register("evolutionary")
class Evolutionary:
    """A (1 + lambda) search over level exchanges with staged selection (EvoPress, arXiv:2410.14649), started informed.

    generations: at most.
    offspring: candidates per generation.
    survivors: how many are left after each stage of a generation; the last is 1.
    tokens: of fresh search text that each stage judges on, whole windows.
    parents: of the first phase, in which offspring also come from crossover.
    phase_one: share of the generations in the first phase.
    crossover: how often an offspring of the first phase comes from two parents.
    start: informed takes `initial` and `probes`; random and uniform are for comparison.
    initial: allocations to start from, as their mappings; knapsacks use the search's own levels and bounds.
    population: candidates that are judged before the first generation; what `initial` leaves free is filled with the
        best of it after 2 to 10 random exchanges.
    probes: levels of each matrix whose effect on the whole model is measured for one more start, by knapsack; 0 none.
    probe_rounds: how often that is done, each time but the first around the result of the time before.
    probe_tokens: that each of them is measured on.
    levels, step, low, high, menu, granularity: as of the allocation knapsack.
    text: where the search text comes from, a text source; when absent that of the calibration.
    length: tokens per window.
    windows: of the search text.
    validation: windows beside them that decide which candidate is the result, and when to stop.
    patience: generations without an improvement of more than `improvement` after which the search stops.
    improvement: of the validation fitness, relative.
    top: probabilities kept of each of the dense model's predictions; the others are one bucket.
    seed: of the search text's windows and of every draw.
    """

    generations: Annotated[int, Field(ge=1)] = 30
    offspring: Annotated[int, Field(ge=1)] = 16
    survivors: list[Annotated[int, Field(ge=1)]] = field(default_factory=lambda: [4, 1])
    tokens: list[Annotated[int, Field(ge=1)]] = field(default_factory=lambda: [1024, 4096])
    parents: Annotated[int, Field(ge=1)] = 4
    phase_one: Annotated[float, Field(ge=0, le=1)] = 0.25
    crossover: Annotated[float, Field(ge=0, le=1)] = 0.5
    start: Literal["informed", "random", "uniform"] = "informed"
    initial: list[dict[str, Any]] = field(default_factory=lambda: [dict(spec) for spec in INITIAL])
    population: Annotated[int, Field(ge=1)] = 10
    probes: Annotated[int, Field(ge=0, le=255)] = 5
    probe_rounds: Annotated[int, Field(ge=1)] = 2
    probe_tokens: Annotated[int, Field(ge=1)] = 2048
    levels: Annotated[int, Field(ge=2, le=255)] = 16
    step: Annotated[int, Field(ge=1)] | None = None
    low: float | None = None
    high: float | None = None
    menu: list[int] | None = None
    granularity: Literal["matrix", "block"] = "matrix"
    text: dict[str, Any] | None = None
    length: Annotated[int, Field(ge=2)] = 256
    windows: Annotated[int, Field(ge=1)] = 128
    validation: Annotated[int, Field(ge=1)] = 32
    patience: Annotated[int, Field(ge=1)] = 15
    improvement: Annotated[float, Field(ge=0, lt=1)] = 0.002
    top: Annotated[int, Field(ge=1)] = 512
    seed: Annotated[int, Field(ge=0)] = 0
    needs = frozenset({"levels", "search"})
    sensitivity_spec = None
    meets_budget = True

    @model_validator(mode="after")
    def _stages_fit(self) -> "Evolutionary":
        if len(self.survivors) != len(self.tokens) or not self.survivors:
            raise ValueError(
                f"survivors and tokens hold one number per stage, got {len(self.survivors)} and {len(self.tokens)}"
            )
        if self.survivors[-1] != 1 or any(b > a for a, b in pairwise([self.offspring, *self.survivors])):
            raise ValueError(f"survivors must not grow from stage to stage and must end with 1, got {self.survivors}")
        for tokens in (*self.tokens, self.probe_tokens):
            if tokens % self.length:
                raise ValueError(f"{tokens} tokens are no whole number of windows of length {self.length}")
            if tokens > self.windows * self.length:
                raise ValueError(
                    f"{tokens} tokens are more than the {self.windows} windows of search text hold "
                    f"({self.windows * self.length}); set windows higher"
                )
        return self

    @property
    def starts(self) -> list[Allocation]:
        """The allocations of `initial`, in order; none where the search is not started informed.

        Raises:
            InputError: one of them is no known allocation, is a search itself, or misses the budget.
        """
        starts = [ALLOCATIONS.build(spec, "initial") for spec in (self.initial if self.start == "informed" else [])]
        for allocation in starts:
            if isinstance(allocation, Evolutionary) or not allocation.meets_budget:
                raise InputError(f"a search cannot start from {allocation.name} in this form; remove it from initial")
        return starts

    def check(self, unit: Unit, target: float) -> None:
        bounds_around(target, self.low, self.high)
        if unit == "zeros" and self.menu is not None:
            raise InputError("menu is of n, for pattern n_of_m; remove it")
        if unit == "n" and self.step is not None:
            raise InputError("step is of weights, for unstructured patterns; set menu")
        for allocation in self.starts:
            allocation.check(unit, target)

    def levels_for(self, request: Request) -> Levels:
        """The menu of every matrix."""
        return request.levels_between(
            self.low, self.high, count=self.levels, step=self.step, menu=self.menu, granularity=self.granularity
        )

    def shares(self, request: Request) -> Shares:
        """No request holds a model to judge by: the step `search` does the work.

        Raises:
            ComputationError: always.
        """
        raise ComputationError("an evolutionary allocation is found by the step search, not from a request")
