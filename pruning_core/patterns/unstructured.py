"""Unstructured: any weight may go; the scope says which weights compete with each other."""

from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from pruning_core.column_sweep import Choice
from pruning_core.numerics.selection import kth_smallest, rounded_count, smallest
from pruning_core.patterns import PATTERNS


@PATTERNS.register("unstructured")
class Unstructured:
    """The lowest scores go, an exact number of them: round(sparsity * rows * columns) of the matrix.

    scope:
        block: all rows of 128 columns (a block of the column sweep) compete, as in SparseGPT; chosen when the sweep
            enters the block, on weights that were already compensated.
        row: the weights of one output compete, as in Wanda.
        matrix: all weights of the matrix compete.
    rounding:
        exact: rows differ by at most one zero so that the matrix meets its budget to the weight.
        floor: each row loses floor(columns * sparsity), as the published Wanda code does (scope row only).
        published: every score goes that does not exceed the one of rank floor(sparsity * size) + 1 in its block or
            matrix, as in the published SparseGPT, ISC and magnitude codes: one weight more than asked, and ties.
    """

    scope: Literal["block", "row", "matrix"] = "block"
    rounding: Literal["exact", "floor", "published"] = "exact"
    takes_sparsity = True

    @model_validator(mode="after")
    def _rounding_fits_the_scope(self) -> "Unstructured":
        if self.rounding == "floor" and self.scope != "row":
            raise ValueError(f"rounding floor goes with scope row, not {self.scope}; remove it or set scope to row")
        if self.rounding == "published" and self.scope == "row":
            raise ValueError(
                "rounding published goes with scope block or matrix; the published rows are rounding floor"
            )
        return self

    def check(self, in_features: int) -> None:
        """Any width will do."""

    def column_sweep_choice(self, sparsity: float) -> Choice | None:
        if self.scope != "block":
            return None
        return Choice(block=lambda score, first: self.removed_in_block(score, sparsity, first))

    def fault(self, keep: Tensor, sparsity: float) -> str | None:
        rows, columns = keep.shape
        floor = self.rounding == "floor"
        budget = rows * _floor(columns, sparsity) if floor else rounded_count(rows * columns, sparsity)
        removed = int((~keep).sum())
        if self.rounding == "published":
            return (
                None if removed >= budget else f"{removed} weights were removed where the budget is {budget} at least"
            )
        return None if removed == budget else f"{removed} weights were removed where the budget is {budget}"

    def removed(self, score: Tensor, sparsity: float, block: int) -> Tensor:
        rows, columns = score.shape
        if self.scope == "row":
            return self._removed_by_row(score, sparsity)
        if self.scope == "matrix" and self.rounding == "published":
            return _up_to_a_threshold(score, sparsity)
        if self.scope == "matrix":
            return smallest(score.reshape(1, -1), rounded_count(rows * columns, sparsity)).reshape(rows, columns)
        gone = torch.zeros_like(score, dtype=torch.bool)
        for start in range(0, columns, block):
            stop = min(start + block, columns)
            gone[:, start:stop] = self.removed_in_block(score[:, start:stop], sparsity, start)
        return gone

    def removed_in_block(self, score: Tensor, sparsity: float, start: int) -> Tensor:
        """[rows, width] bool for the columns that begin at `start`.

        Counts are differences of the cumulated budget, so the roundings of the blocks cancel over the matrix.
        """
        if self.rounding == "published":
            return _up_to_a_threshold(score, sparsity)
        rows, width = score.shape
        count = rounded_count(rows * (start + width), sparsity) - rounded_count(rows * start, sparsity)
        return smallest(score.reshape(1, -1), count).reshape(rows, width)

    def _removed_by_row(self, score: Tensor, sparsity: float) -> Tensor:
        rows, columns = score.shape
        low = _floor(columns, sparsity)
        spare = 0 if self.rounding == "floor" else rounded_count(rows * columns, sparsity) - low * rows
        counts = torch.full((rows,), low, dtype=torch.long, device=score.device)
        if spare > 0:
            # The extra zeros go to the rows whose next weight matters least.
            following = kth_smallest(score, low + 1)
            counts += smallest(following.reshape(1, -1), spare).reshape(-1)
        return smallest(score, counts)


def _up_to_a_threshold(score: Tensor, sparsity: float) -> Tensor:
    """The published codes' choice; truncated as theirs, binary fractions and all."""
    rank = int(score.numel() * sparsity) + 1
    return score <= score.flatten().kthvalue(rank).values


def _floor(columns: int, sparsity: float) -> int:
    # The epsilon keeps 100 * 0.29 from becoming 28.
    return int(columns * sparsity + 1e-9)
