"""The levels with the least measured error in all: a multiple-choice knapsack."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pruning_core.allocation import ALLOCATIONS, Request
from pruning_core.budget.counts import bounds_around
from pruning_core.budget.knapsack_solver import knapsack
from pruning_core.budget.level_errors import ErrorKind, level_errors
from pruning_core.budget.levels import Levels
from pruning_core.compress.shares import Shares, Unit
from pruning_core.errors import InputError, required

PER_WEIGHT = ("fisher", "hutchinson")


@ALLOCATIONS.register("knapsack")
class Knapsack:
    """Every matrix is pruned at every level, once, and the levels are chosen whose errors have the least sum.

    errors:
        fisher: 0.5 t ||D||^2, D the change of the weights, t the matrix's mean curvature per weight: an estimate of the
            loss (as in HAWQ-V2, arXiv:1911.03852), and so comparable between matrices.
        output: 0.5 tr(D H D^T), H of dense inputs: the error of the matrix's output, whatever becomes of that.
        relative_output: the same as a fraction of the output, 0.5 tr(W H W^T).
    sensitivity: what measures t for errors fisher: {name: fisher} or {name: hutchinson}.
    levels: of a matrix of mean size, between low and high.
    step: weights between two levels, in the place of `levels`.
    low, high: sparsities that no matrix leaves; when absent target - 0.25 and target + 0.2, within 0 and 0.95, or for
        n_of_m any.
    menu: for n_of_m: the n that matrices may have; when absent all from 1 to m.
    granularity: block moves all matrices of a block together.
    """

    errors: ErrorKind = "fisher"
    sensitivity: dict[str, Any] | None = None
    levels: Annotated[int, Field(ge=2, le=255)] = 16
    step: Annotated[int, Field(ge=1)] | None = None
    low: float | None = None
    high: float | None = None
    menu: list[int] | None = None
    granularity: Literal["matrix", "block"] = "matrix"
    meets_budget = True

    @model_validator(mode="after")
    def _every_setting_is_used(self) -> "Knapsack":
        if self.errors != "fisher" and self.sensitivity is not None:
            raise ValueError(f"sensitivity changes nothing with errors {self.errors}; remove it, or set errors fisher")
        spec = self.sensitivity_spec or {"name": PER_WEIGHT[0]}
        if spec.get("name") not in PER_WEIGHT or spec.get("normalise", "mean") != "mean" or "form" in spec:
            raise ValueError(
                f"errors fisher needs a curvature per weight: sensitivity {' or '.join(PER_WEIGHT)} with its normalise "
                "mean"
            )
        return self

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"levels", "sensitivity"} if self.errors == "fisher" else {"levels"})

    @property
    def sensitivity_spec(self) -> dict[str, Any] | None:
        return (self.sensitivity or {"name": PER_WEIGHT[0]}) if self.errors == "fisher" else None

    def check(self, unit: Unit, target: float) -> None:
        bounds_around(target, self.low, self.high)
        if unit == "zeros" and self.menu is not None:
            raise InputError("menu is of n, for pattern n_of_m; remove it")
        if unit == "n" and self.step is not None:
            raise InputError("step is of weights, for unstructured patterns; set menu")

    def levels_for(self, request: Request) -> Levels:
        """The menu of every matrix."""
        return request.levels_between(
            self.low, self.high, count=self.levels, step=self.step, menu=self.menu, granularity=self.granularity
        )

    @property
    def needs_hessians(self) -> bool:
        """Whether the errors look at statistics, whatever the method does."""
        return self.errors != "fisher"

    def errors_of(self, measured: Sequence[Mapping[str, Any]], request: Request) -> list[list[float]]:
        """Per matrix of the request the errors of its levels, as measured (`pruning_core.budget.levels`)."""
        by_name = {facts["name"]: facts for facts in measured}
        ordered = [by_name[matrix.name] for matrix in request.matrices]
        return level_errors(ordered, self.errors, None if request.profile is None else request.profile.matrices)

    def shares(self, request: Request) -> Shares:
        levels = required(request.levels, "the levels of the matrices")
        return levels.shares_of(knapsack(levels, required(request.errors, "the errors of the levels")))
