"""N:M: N of every M consecutive inputs are kept."""

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pruning_core.column_sweep import Choice
from pruning_core.errors import InputError
from pruning_core.numerics.selection import smallest
from pruning_core.patterns import PATTERNS


@PATTERNS.register("n_of_m")
class KeepNOfM:
    """In every row, N of each aligned group of M consecutive inputs survive (published codes often count the removed).

    The sparsity is 1 - N/M. In a column sweep a group is chosen when its turn comes, on compensated weights
    (SparseGPT, arXiv:2301.00774, section 3.4).

    ragged: what becomes of the last r < M inputs of a width that M does not divide.
        error: the layer is refused.
        dense: they stay.
        proportional: ceil(N r / M) of them stay.
        published: M - N of them go, all if r is smaller, as in the SparseGPT code.
    """

    n: Annotated[int, Field(ge=1)]
    m: Annotated[int, Field(ge=2, le=256)]
    ragged: Literal["error", "dense", "proportional", "published"] = "error"
    takes_sparsity = False

    @model_validator(mode="after")
    def _fewer_than_all(self) -> "KeepNOfM":
        if self.n >= self.m:
            raise ValueError(f"n:m keeps n of every m inputs, so n must be below m, got {self.n}:{self.m}")
        return self

    def check(self, in_features: int) -> None:
        if in_features % self.m and self.ragged == "error":
            raise InputError(
                f"{self.n}:{self.m} needs in_features divisible by {self.m}, got {in_features}; "
                "set ragged to dense, proportional or published, or take an m that divides it"
            )

    def column_sweep_choice(self, sparsity: None) -> Choice:
        return Choice(n_of_m=(self.n, self.m), ragged=self.removed_of)

    def removed_of(self, width: int) -> int:
        """How many of a group of `width` inputs go."""
        if width == self.m:
            return self.m - self.n
        if self.ragged == "published":
            return min(width, self.m - self.n)
        return width - -(-self.n * width // self.m) if self.ragged == "proportional" else 0

    def removed(self, score: Tensor, sparsity: None, block: int) -> Tensor:
        rows, columns = score.shape
        whole = columns - columns % self.m
        gone = torch.zeros_like(score, dtype=torch.bool)
        gone[:, :whole] = smallest(score[:, :whole].reshape(-1, self.m), self.m - self.n).reshape(rows, whole)
        if whole < columns:
            gone[:, whole:] = smallest(score[:, whole:], self.removed_of(columns - whole))
        return gone

    def fault(self, keep: Tensor, sparsity: None) -> str | None:
        whole = keep.shape[1] - keep.shape[1] % self.m
        wrong = keep[:, :whole].reshape(-1, self.m).sum(dim=1) != self.n
        rest = keep.shape[1] - whole
        ragged = (~keep[:, whole:]).sum(dim=1) != (self.removed_of(rest) if rest else 0)
        count = int(wrong.sum()) + int(ragged.sum())
        return f"{count} groups break {self.n}:{self.m}" if count else None
