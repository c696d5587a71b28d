"""The papers' methods, written down as slowly and plainly as they can be: float64, explicit inverses, one column at a
time. A mask is [rows, in] bool, True where a weight goes."""

from collections.abc import Callable

import torch
from torch import Tensor

Choose = Callable[[Tensor, int, Tensor], Tensor | None]
"""(weights now, column reached, [in] u_j^2) -> the mask of the columns from there on that it decides, or None."""


def second_moment(inputs: Tensor) -> Tensor:
    """X^T X / tokens of [sequences, tokens, in]."""
    rows = inputs.reshape(-1, inputs.shape[-1]).double()
    return rows.T @ rows / len(rows)


def damped(hessian: Tensor, fraction: float = 0.01) -> Tensor:
    """One percent of the mean diagonal on the diagonal."""
    return hessian + fraction * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=hessian.dtype)


def inverses(hessian: Tensor) -> list[Tensor]:
    """The inverse of what is left of H when the columns before j are fixed, for every j."""
    return [torch.linalg.inv(hessian[j:, j:]) for j in range(len(hessian))]


def sweep(
    weight: Tensor, remaining: list[Tensor], choose: Choose, quantize: Callable | None = None
) -> tuple[Tensor, Tensor]:
    """(weight, mask) after optimal brain surgery, column by column, every row alike.

    `remaining` are the `inverses` of the damped H; quantize(values [rows], column, weights now) gives the values on
    the grid.
    """
    work, gone = weight.double().clone(), torch.zeros_like(weight, dtype=torch.bool)
    squares = torch.stack([inverse[0, 0] for inverse in remaining])
    for column, inverse in enumerate(remaining):
        chosen = choose(work, column, squares)
        if chosen is not None:
            gone[:, column : column + chosen.shape[1]] = chosen
        wanted = work[:, column] if quantize is None else quantize(work[:, column], column, work)
        wanted = wanted.masked_fill(gone[:, column], 0.0)
        # The update that makes the loss smallest when this column is `wanted` and those before it stay.
        work[:, column:] -= torch.outer((work[:, column] - wanted) / inverse[0, 0], inverse[0])
    return work, gone


def lowest(score: Tensor, count: int) -> Tensor:
    """The `count` lowest of each row."""
    mask = torch.zeros_like(score, dtype=torch.bool)
    for row, order in enumerate(score.argsort(dim=1, stable=True)):
        mask[row, order[:count]] = True
    return mask


def by_block(sparsity: float, scale: Callable[[Tensor], Tensor], width: int = 128) -> Choose:
    """SparseGPT's choice: at every 128th column, the lowest of all rows of the next 128; score w^2 scale(u^2)."""

    def choose(work: Tensor, column: int, squares: Tensor) -> Tensor | None:
        if column % width:
            return None
        part = work[:, column : column + width]
        score = part.square() * scale(squares)[column : column + width]
        return lowest(score.reshape(1, -1), round(sparsity * part.numel())).reshape(part.shape)

    return choose


def by_group(n: int, m: int) -> Choose:
    """SparseGPT's N:M choice: at every m-th column, the m - n lowest of the next m in each row; score w^2 / u^2."""

    def choose(work: Tensor, column: int, squares: Tensor) -> Tensor | None:
        group = slice(column, column + m)
        return None if column % m else lowest(work[:, group].square() / squares[group], m - n)

    return choose


def fixed(mask: Tensor) -> Choose:
    """A mask known beforehand."""
    return lambda work, column, squares: None if column else mask


def n_of_m(score: Tensor, n: int, m: int) -> Tensor:
    """The m - n lowest of every m neighbours."""
    return torch.cat([lowest(part, m - n) for part in score.split(m, dim=1)], dim=1)


def alpha_search(score: Tensor, sparsity: float) -> Tensor:
    """Wanda's option: each row loses what holds the share alpha of its sum; alpha is bisected in [0, 0.8]."""
    low, high, alpha = 0.0, 0.8, 0.4
    while True:
        mask = torch.zeros_like(score, dtype=torch.bool)
        for row, values in enumerate(score):
            order = values.argsort(stable=True)
            taken = int((values[order].cumsum(0) <= alpha * values.sum()).sum())
            mask[row, order[:taken]] = True
        reached = float(mask.double().mean())
        if abs(reached - sparsity) <= 0.001 or high - low < 0.001:
            return mask
        low, high = (low, alpha) if reached > sparsity else (alpha, high)
        alpha = (low + high) / 2


def grid(values: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(scale, zero) of the asymmetric grid from the lowest to the highest value of each row, zero on it."""
    low, high = values.min(dim=1).values.clamp(max=0), values.max(dim=1).values.clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    return scale, torch.round(-low / scale)


def on_grid(values: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """The nearest values of the grid."""
    return scale * (torch.clamp(torch.round(values / scale) + zero, 0, 2**bits - 1) - zero)
