"""The column sweep of SparseGPT and GPTQ: fix the columns left to right, push each error to the right.

SparseGPT (arXiv:2301.00774, algorithm 1) and GPTQ (arXiv:2210.17323, algorithm 1) are one algorithm that differs in
what a column may become. This module is the part that is the same for every kernel: blocks, mask choice, and the lazy
update of all later columns. A kernel does the columns of one block.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from pruning_core.column_sweep.grids import BlockGrid, Grids
from pruning_core.errors import required

ChooseBlock = Callable[[Tensor, int], Tensor]
"""(score [rows, width], first column) -> removed [rows, width] bool."""


@dataclass(frozen=True)
class Choice:
    """How the column sweep gets its mask: fixed, by block or by group of m; nothing is removed where none is set."""

    fixed: Tensor | None = field(default=None, repr=False)
    """[rows, in] bool, True where a weight goes, chosen before the sweep."""
    block: ChooseBlock | None = None
    """Called when the sweep enters a block, with scores of compensated weights."""
    n_of_m: tuple[int, int] | None = None
    """(kept n, of m): every group is chosen when the sweep reaches it."""
    ragged: Callable[[int], int] | None = None
    """How many weights of a last group of less than m columns go; goes with `n_of_m`."""


@dataclass(frozen=True)
class GroupRule:
    """N:M as a kernel applies it: `removed` of each `size` columns go, `removed_last` of a shorter last group."""

    size: int
    removed: int
    removed_last: int


class Kernel(Protocol):
    """Fix the columns of one block in place.

    Args:
        weight: [rows, width] float32, a view; becomes the final values.
        upper: [width, width] float32 contiguous: the block's part of U.
        removed: [rows, width] bool; read, or written where `groups` is given.
        error: [rows, width] float32, receives (w - q) / u_j.
        scale: [width] float32, the saliency's column scale; read only where `groups` is given.
        groups: the N:M rule, or None.
        grid: the values that a kept weight may take, or None for any; its codes are written.
    """

    def __call__(
        self,
        weight: Tensor,
        upper: Tensor,
        removed: Tensor,
        error: Tensor,
        scale: Tensor,
        groups: GroupRule | None,
        grid: BlockGrid | None,
    ) -> None: ...


@dataclass(frozen=True)
class ColumnSweepResult:
    """weight [rows, in] float32; keep [rows, in] bool; what each row adds to 0.5 tr(D H_d D^T), [rows] float64."""

    weight: Tensor
    keep: Tensor
    row_loss: Tensor | None

    @property
    def loss(self) -> float:
        """0.5 tr(D H_d D^T), D = change of the weight."""
        return float(required(self.row_loss, "the loss of a column sweep").sum())


def column_sweep(
    weight: Tensor,
    upper: Tensor,
    scale: Tensor,
    choice: Choice,
    block: int,
    kernel: Kernel,
    grids: Grids | None = None,
) -> ColumnSweepResult:
    """Prune and quantize `weight` with optimal updates of the columns not yet fixed.

    Args:
        weight: [rows, in] float32; not modified. Dead columns must already be zero.
        upper: [in, in] float32, U of `pruning_core.compress.factor`.
        scale: [in] float32: score = w^2 * scale.
        choice: where the mask comes from.
        block: columns per lazy update; with `choice.block` also the columns that share one choice.
        kernel: does one block.
        grids: the values that kept weights may take; its codes are filled. None: any value.
    """
    work = weight.clone(memory_format=torch.contiguous_format)
    rows, columns = work.shape
    removed = choice.fixed.clone() if choice.fixed is not None else torch.zeros_like(work, dtype=torch.bool)
    rule = _group_rule(choice, columns)
    if rule:
        block = max(block - block % rule.size, rule.size)
    total = torch.zeros(rows, dtype=torch.float64, device=work.device)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        if choice.block is not None:
            removed[:, start:stop] = choice.block(work[:, start:stop].square() * scale[start:stop], start)
        error = torch.empty(rows, stop - start, dtype=torch.float32, device=work.device)
        gone = removed[:, start:stop].contiguous()
        inner = upper[start:stop, start:stop].contiguous()
        grid = grids.enter(work, start, stop) if grids else None
        kernel(work[:, start:stop], inner, gone, error, scale[start:stop].contiguous(), rule, grid)
        removed[:, start:stop] = gone
        if grids and grid:
            grids.leave(grid, start, stop)
        total += error.square().sum(dim=1, dtype=torch.float64) / 2
        if stop < columns:
            work[:, stop:].addmm_(error, upper[start:stop, stop:], alpha=-1)
    return ColumnSweepResult(work, ~removed, total)


def _group_rule(choice: Choice, columns: int) -> GroupRule | None:
    if choice.n_of_m is None:
        return None
    n, m = choice.n_of_m
    rest = columns % m
    return GroupRule(m, m - n, choice.ragged(rest) if rest and choice.ragged else 0)
