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

from pruning_core.errors import InputError
from pruning_core.registry import nearest

ChooseBlock = Callable[[Tensor, int], Tensor]
"""(score [rows, width], first column) -> removed [rows, width] bool."""


@dataclass(frozen=True)
class Choice:
    """How the sweep gets its mask; exactly one of the three is set."""

    fixed: Tensor | None = field(default=None, repr=False)
    """[rows, in] bool, True where a weight goes, chosen before the sweep."""
    block: ChooseBlock | None = None
    """Called when the sweep enters a block, with scores of compensated weights."""
    n_of_m: tuple[int, int] | None = None
    """(kept n, of m): every group is chosen when the sweep reaches it."""


class Kernel(Protocol):
    """Fix the columns of one block in place.

    Args:
        weight: [rows, width] float32, a view; becomes the final values.
        upper: [width, width] float32 contiguous: the block's part of U.
        removed: [rows, width] bool; read, or written where `n_of_m` is given.
        error: [rows, width] float32, receives (w - q) / u_j.
        scale: [width] float32, the saliency's column scale; read only where `n_of_m` is given.
        n_of_m: None, or (n, m) with width divisible by m.
    """

    def __call__(
        self,
        weight: Tensor,
        upper: Tensor,
        removed: Tensor,
        error: Tensor,
        scale: Tensor,
        n_of_m: tuple[int, int] | None,
    ) -> None: ...


@dataclass(frozen=True)
class SweepResult:
    """weight [rows, in] float32; keep [rows, in] bool; loss = 0.5 tr(D H_d D^T), summed from the errors."""

    weight: Tensor
    keep: Tensor
    loss: float


KERNELS = ("numba", "torch")


def kernel_for(name: str, device: torch.device) -> Kernel:
    """The kernel of that name; "auto" takes the fastest one for the device.

    Raises:
        InputError: unknown name, or a CPU kernel asked for elsewhere.
    """
    if name == "auto":
        name = "numba" if device.type == "cpu" else "torch"
    if name not in KERNELS:
        raise InputError(
            f"{name!r} is not a known kernel{nearest(name, list(KERNELS))}; known: auto, {', '.join(KERNELS)}"
        )
    if name == "torch":
        from pruning_core.sweep.torch_kernel import fix_columns

        return fix_columns
    if device.type != "cpu":
        raise InputError(f"the numba kernel runs on the CPU, not on {device.type}; use kernel torch")
    from pruning_core.sweep.numba_kernel import fix_columns

    return fix_columns


def sweep(
    weight: Tensor, upper: Tensor, scale: Tensor, choice: Choice, block: int, kernel: Kernel
) -> SweepResult:
    """Prune `weight` with optimal updates of the columns not yet fixed.

    Args:
        weight: [rows, in] float32; not modified. Dead columns must already be zero.
        upper: [in, in] float32, U of `pruning_core.factor`.
        scale: [in] float32: score = w^2 * scale.
        choice: where the mask comes from.
        block: columns per lazy update; with `choice.block` also the columns that share one choice.
        kernel: does one block.
    """
    work = weight.clone(memory_format=torch.contiguous_format)
    rows, columns = work.shape
    removed = choice.fixed.clone() if choice.fixed is not None else torch.zeros_like(work, dtype=torch.bool)
    if choice.n_of_m:
        block = max(block - block % choice.n_of_m[1], choice.n_of_m[1])
    total = 0.0
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        current = work[:, start:stop]
        if choice.block is not None:
            removed[:, start:stop] = choice.block(current.square() * scale[start:stop], start)
        error = torch.empty(rows, stop - start, dtype=torch.float32, device=work.device)
        gone = removed[:, start:stop].contiguous()
        inner = upper[start:stop, start:stop].contiguous()
        kernel(current, inner, gone, error, scale[start:stop].contiguous(), choice.n_of_m)
        removed[:, start:stop] = gone
        total += float(error.double().square().sum()) / 2
        if stop < columns:
            work[:, stop:].addmm_(error, upper[start:stop, stop:], alpha=-1)
    return SweepResult(work, ~removed, total)
