"""The zeros that are there already: what a second step has to keep."""

from torch import Tensor

from pruning_core.column_sweep import Choice
from pruning_core.patterns import PATTERNS


@PATTERNS.register("existing")
class ExistingZeros:
    """Zeros of the given weight stay zero and nothing else is removed: for quantizing a model that was pruned."""

    takes_sparsity = False

    def check(self, in_features: int) -> None:
        """Any width will do."""

    def column_sweep_choice(self, sparsity: None) -> Choice | None:
        return None

    def removed(self, score: Tensor, sparsity: None, block: int) -> Tensor:
        return score == 0

    def fault(self, keep: Tensor, sparsity: None) -> str | None:
        return None
