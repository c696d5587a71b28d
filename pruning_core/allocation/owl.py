"""OWL: blocks with more outliers are pruned less."""

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from pruning_core.allocation import ALLOCATIONS, Request
from pruning_core.allocation.by_sensitivity import unit_interval
from pruning_core.budget.counts import shifted
from pruning_core.compress.shares import Shares, Unit


@ALLOCATIONS.register("owl")
class Owl:
    """sparsity of block i = target - z_i + mean(z), z the outlier shares scaled to [0, 2 strength] (arXiv:2310.05175).

    All matrices of a block get its sparsity. The mean is weighted by weights, and sparsities are clipped to [0, 1]
    with the budget kept. Where all blocks have equal shares, as in a model of one block, the allocation is uniform.

    strength: lambda of the paper; sparsities span 2 strength.
    multiple: M of the paper: an outlier's score is more than that many times the mean of its block.
    """

    strength: Annotated[float, Field(gt=0, le=0.5)] = 0.08
    multiple: Annotated[float, Field(gt=0)] = 5.0
    needs = frozenset({"sensitivity"})
    meets_budget = True

    @property
    def sensitivity_spec(self) -> dict[str, Any]:
        return {"name": "outliers", "multiple": self.multiple}

    def check(self, unit: Unit, target: float) -> None:
        """Any target will do."""

    def shares(self, request: Request) -> Shares:
        relative = unit_interval(np.asarray(request.sensitivities.blocks, dtype=np.float64), "linear")
        raw = [request.target - 2 * self.strength * float(relative[matrix.block]) for matrix in request.matrices]
        return request.shares_near(shifted(raw, request.sizes, request.target, 0.0, 1.0))
