"""Wanda's variant: each row loses the same share of its score mass, not the same number of weights."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from pruning_core.column_sweep import Choice
from pruning_core.patterns import PATTERNS

WIDEST = 0.8
"""No row loses more than this share of its score."""


@PATTERNS.register("alpha_search")
class AlphaSearch:
    """The smallest scores of a row go until they hold the share alpha of its sum; one alpha per matrix is bisected.

    The search option of the Wanda code (arXiv:2306.11695): alpha in [0, 0.8], stopped when the sparsity of the matrix
    is within `tolerance` of the target, which is therefore not met exactly. Scores are |w| times input norm.
    """

    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.001
    takes_sparsity = True

    def check(self, in_features: int) -> None:
        """Any width will do."""

    def column_sweep_choice(self, sparsity: float) -> Choice | None:
        return None

    def removed(self, score: Tensor, sparsity: float, block: int) -> Tensor:
        # Saliencies are squared; the published search sums the scores themselves.
        linear = score.double().sqrt()
        ordered, order = linear.sort(dim=1, stable=True)
        mass = ordered.cumsum(dim=1)
        low, high, alpha = 0.0, WIDEST, WIDEST / 2
        while True:
            counts = (mass <= alpha * mass[:, -1:]).sum(dim=1)
            reached = float(counts.sum()) / score.numel()
            if abs(reached - sparsity) <= self.tolerance or high - low < 0.001:
                break
            low, high = (low, alpha) if reached > sparsity else (alpha, high)
            alpha = (low + high) / 2
        rank = order.argsort(dim=1)
        return rank < counts[:, None]

    def fault(self, keep: Tensor, sparsity: float) -> str | None:
        return None
