"""N:M: N of every M consecutive inputs are kept."""

from typing import Annotated

from pydantic import Field, model_validator
from torch import Tensor

from pruning_core.errors import InputError
from pruning_core.patterns import PATTERNS
from pruning_core.selection import smallest


@PATTERNS.register("n_of_m")
class KeepNOfM:
    """In every row, N of each aligned group of M consecutive inputs survive (published codes often count the removed).

    The sparsity is 1 - N/M. Inside a sweep a group is chosen when the sweep reaches it, on compensated weights
    (SparseGPT, arXiv:2301.00774, section 3.4).
    """

    n: Annotated[int, Field(ge=1)]
    m: Annotated[int, Field(ge=2, le=256)]
    takes_sparsity = False

    @model_validator(mode="after")
    def _fewer_than_all(self) -> "KeepNOfM":
        if self.n >= self.m:
            raise ValueError(f"n:m keeps n of every m inputs, so n must be below m, got {self.n}:{self.m}")
        return self

    def check(self, in_features: int) -> None:
        if in_features % self.m:
            raise InputError(
                f"{self.n}:{self.m} needs in_features divisible by {self.m}, got {in_features}; "
                "take an m that divides it or the unstructured pattern"
            )

    def columns_per_choice(self, in_features: int, block: int) -> int:
        return self.m

    def removed(self, score: Tensor, sparsity: None, block: int) -> Tensor:
        groups = score.reshape(-1, self.m)
        return smallest(groups, self.m - self.n).reshape(score.shape)
