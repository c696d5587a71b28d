"""Less of what is sensitive: a linear map of any sensitivity, clipped and shifted to the budget."""

from dataclasses import field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pruning_core.allocation import ALLOCATIONS, Request
from pruning_core.budget.counts import bounds_around, shifted
from pruning_core.compress.shares import Shares, Unit
from pruning_core.errors import InputError


@ALLOCATIONS.register("by_sensitivity")
class BySensitivity:
    """sparsity = clip(target - strength * (2 u - 1) + mu), u the sensitivity scaled to [0, 1], mu met by bisection.

    So the least sensitive matrix loses up to 2 * strength more than the most sensitive one. Where all sensitivities are
    equal, as in a model of one block with granularity block, the allocation is uniform.

    sensitivity: {name: ...}, as `pruning_core.sensitivity` registers them.
    scale: log scales the logarithm, since traces span orders of magnitude, what is not positive counting as the
        smallest positive value; linear takes values as they are.
    low, high: sparsities that no matrix leaves; when absent target - 0.25 and target + 0.2, within 0 and 0.95.
    granularity: block gives all matrices of a block one sparsity.
    """

    sensitivity: dict[str, Any] = field(default_factory=lambda: {"name": "fisher"})
    strength: Annotated[float, Field(ge=0, le=1)] = 0.1
    scale: Literal["log", "linear"] = "log"
    low: float | None = None
    high: float | None = None
    granularity: Literal["matrix", "block"] = "matrix"
    needs = frozenset({"sensitivity"})
    meets_budget = True

    @property
    def sensitivity_spec(self) -> dict[str, Any]:
        return self.sensitivity

    def check(self, unit: Unit, target: float) -> None:
        bounds_around(target, self.low, self.high)

    def shares(self, request: Request) -> Shares:
        low, high = bounds_around(request.target, self.low, self.high)
        if self.granularity == "block":
            values = [request.sensitivities.blocks[matrix.block] for matrix in request.matrices]
        else:
            values = [request.sensitivities.matrices[matrix.name] for matrix in request.matrices]
        relative = unit_interval(np.asarray(values, dtype=np.float64), self.scale)
        raw = request.target - self.strength * (2 * relative - 1)
        return request.shares_near(shifted(raw.tolist(), request.sizes, request.target, low, high))


def unit_interval(values: np.ndarray, scale: Literal["log", "linear"]) -> np.ndarray:
    """[n] float64 scaled to [0, 1], the smallest to 0 and the largest to 1; all 0.5 where they are equal.

    Raises:
        InputError: a value is not finite, or none is positive where logarithms are asked for.
    """
    if not np.isfinite(values).all():
        raise InputError("a sensitivity is not finite; measure it on more or on other text")
    if scale == "log":
        positive = values[values > 0]
        if not len(positive):
            if (values == values[0]).all():
                return np.full_like(values, 0.5)
            raise InputError("no sensitivity is positive, so none has a logarithm; set scale to linear")
        values = np.log(np.maximum(values, positive.min()))
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else np.full_like(values, 0.5)
