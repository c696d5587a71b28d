"""Sparsity by the rank of a matrix's sensitivity, within an interval around the target."""

from bisect import bisect_left
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

from pruning_core.allocation import ALLOCATIONS, Request
from pruning_core.budget.counts import shifted
from pruning_core.compress.shares import Shares, Unit
from pruning_core.errors import InputError
from pruning_core.numerics.selection import rounded_count


@ALLOCATIONS.register("rank_interval")
class RankInterval:
    """Ranks spread evenly over target +- half_width, the most sensitive matrix lowest (arXiv:2310.09499, Algorithm 1).

    The algorithm as printed calls a density what it returns as a sparsity; its rule is read as its code has it:
    density = 1 - target - half_width + 2 half_width rank / (n - 1), rank counting the smaller sensitivities.

    sensitivity: {name: ...}.
    form:
        corrected: ranks among the prunable matrices, then one shift that meets the budget to the weight.
        mixgpt_code: as published: what else the profile has values for (norm weights) takes part in the ranking, and
            nothing is shifted. Ranks are not weighted by size, so the whole is denser or sparser than the target.
    """

    sensitivity: dict[str, Any] = field(default_factory=lambda: {"name": "hutchinson"})
    half_width: Annotated[float, Field(ge=0, lt=1)] = 0.1
    form: Literal["corrected", "mixgpt_code"] = "corrected"
    needs = frozenset({"sensitivity"})

    @property
    def sensitivity_spec(self) -> dict[str, Any]:
        return self.sensitivity

    @property
    def meets_budget(self) -> bool:
        return self.form == "corrected"

    def check(self, unit: Unit, target: float) -> None:
        if not 0 <= target - self.half_width <= target + self.half_width <= 1:
            raise InputError(
                f"half_width {self.half_width:g} around a sparsity of {target:g} leaves [0, 1]; take a smaller one"
            )
        if unit == "n" and self.form == "mixgpt_code":
            raise InputError("form mixgpt_code is made for unstructured patterns; set form to corrected")

    def shares(self, request: Request) -> Shares:
        profile = request.sensitivities
        values = [profile.matrices[matrix.name] for matrix in request.matrices]
        others = profile.details.get("others", {}) if self.form == "mixgpt_code" else {}
        sparsities = interval_sparsities(values, [*values, *others.values()], request.target, self.half_width)
        if self.form == "mixgpt_code":
            pairs = zip(request.sizes, sparsities, strict=True)
            return request.shares_of([rounded_count(size, sparsity) for size, sparsity in pairs])
        return request.shares_near(shifted(sparsities, request.sizes, request.target, 0.0, 1.0))


def interval_sparsities(values: list[float], pool: list[float], target: float, half_width: float) -> list[float]:
    """target + half_width for the smallest value of the pool, target - half_width for the largest, evenly by rank."""
    ordered = sorted(pool)
    step = 2 * half_width / max(len(ordered) - 1, 1)
    return [target + half_width - bisect_left(ordered, value) * step for value in values]
