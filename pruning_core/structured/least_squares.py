"""Least squares: the matrix that reads the surviving groups is refitted to keep its outputs."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from pruning_core.errors import ComputationError, required

HIGHEST = 1.0
"""Ridge, as a share of the mean diagonal, beyond which a system counts as one that cannot be solved."""
ITERATIONS = 30


class Totals(NamedTuple):
    """Sums over tokens of what a matrix reads: x [in] in the dense model, y [kept] in the pruned one."""

    dense: Tensor
    """Of x x^T."""
    cross: Tensor
    """Of x y^T."""
    pruned: Tensor
    """Of y y^T."""
    x: Tensor
    y: Tensor


@dataclass
class Moments:
    """Second moments of what a matrix reads: x in the dense model, y what is left of it in the pruned one. All float64.

    y are the surviving entries of x itself (static), or what the pruned blocks before make of them (error-absorbing).
    """

    tokens: int = 0
    totals: "Totals | None" = field(default=None, repr=False)
    """None before the first tokens."""

    def add(self, dense: Tensor, pruned: Tensor) -> None:
        """Take in x [tokens, in] and y [tokens, kept] of the same tokens, any float dtype."""
        x, y = dense.double(), pruned.double()
        parts = Totals(x.T @ x, x.T @ y, y.T @ y, x.sum(0), y.sum(0))
        if self.totals is None:
            self.totals = parts
        else:
            for total, part in zip(self.totals, parts, strict=True):
                total += part
        self.tokens += len(x)

    def mean(self) -> tuple[Tensor, Tensor]:
        """Means of x and y."""
        totals = self._measured()
        return totals.x / self.tokens, totals.y / self.tokens

    def second(self, centred: bool) -> tuple[Tensor, Tensor]:
        """(E[x y^T], E[y y^T]), or the covariances."""
        totals = self._measured()
        cross, pruned = totals.cross / self.tokens, totals.pruned / self.tokens
        if centred:
            x, y = self.mean()
            return cross - torch.outer(x, y), pruned - torch.outer(y, y)
        return cross, pruned

    def sum_of_dense(self) -> Tensor:
        """Sum of x x^T."""
        return self._measured().dense

    def _measured(self) -> "Totals":
        return required(self.totals, "the inputs of a matrix that is refitted")


@dataclass(frozen=True, eq=False)
class Refit:
    """A consumer that was solved for.

    Args:
        weight: [out, kept] float64.
        shift: what its bias rises by [out] float64; None without a bias.
        ridge: as a share of the mean diagonal of E[y y^T].
        condition: of the matrix that was factored, estimated.
    """

    weight: Tensor = field(repr=False)
    shift: Tensor | None = field(repr=False)
    ridge: float
    condition: float


def refit(weight: Tensor, kept: Tensor, moments: Moments, ridge: float, centred: bool = False) -> Refit:
    """argmin over V of E||W x - V y||^2 + lambda ||V - W_K||^2, lambda = ridge * mean diag E[y y^T]:

        V = (W E[x y^T] + lambda W_K) (E[y y^T] + lambda I)^-1

    With y the surviving entries of x that is V = W_K + W_R S_RK (S_KK + lambda I)^-1, S = E[x x^T]. The penalty is zero
    at W_K, so on the tokens of the moments V is never worse than W_K. With `centred` the moments are covariances, and
    the bias takes up the means.

    Args:
        weight: W [out, in], any float dtype.
        kept: [kept] int64, the columns of W that stay: W_K.
        ridge: raised tenfold as long as the Cholesky factorization fails.

    Raises:
        ComputationError: it fails up to a ridge of 1, or a moment is not finite.
    """
    dense = weight.double()
    cross, pruned = moments.second(centred)
    if not (torch.isfinite(cross).all() and torch.isfinite(pruned).all()):
        raise ComputationError("the inputs of a matrix hold NaN or inf; check the model with `espalier evaluate`")
    scale = pruned.diagonal().mean()
    # Inputs that are zero throughout say nothing: then any ridge gives W_K.
    scale = scale if scale > 0 else torch.ones_like(scale)
    unit = torch.eye(len(pruned), dtype=torch.float64, device=pruned.device)
    while True:
        system = pruned + ridge * scale * unit
        factor, failed = torch.linalg.cholesky_ex(system)
        if not failed:
            break
        ridge *= 10
        if ridge > HIGHEST:
            raise ComputationError(
                "the inputs of a matrix cannot be solved for, even with a ridge of their mean square"
            )
    target = dense @ cross + ridge * scale * dense[:, kept]
    solved = torch.cholesky_solve(target.T, factor).T
    shift = None
    if centred:
        x, y = moments.mean()
        shift = dense @ x - solved @ y
    return Refit(solved, shift, ridge, _condition(system, factor))


def relative_error(weight: Tensor, solved: Tensor, shift: Tensor | None, moments: Moments) -> float:
    """E||W x - V y - shift||^2 / E||W x||^2 on the tokens of `moments`.

    Args:
        weight: W [out, in]; solved: V [out, kept]; shift: [out] or None.
    """
    dense, solved = weight.double(), solved.double()
    energy = ((dense @ moments.sum_of_dense()) * dense).sum() / moments.tokens
    cross, pruned = moments.second(centred=False)
    error = energy - 2 * ((dense @ cross) * solved).sum() + ((solved @ pruned) * solved).sum()
    if shift is not None:
        x, y = moments.mean()
        error += shift.square().sum() - 2 * shift @ (dense @ x - solved @ y)
    return float(error / energy) if energy > 0 else 0.0


def _condition(system: Tensor, factor: Tensor) -> float:
    """Largest over smallest eigenvalue of a positive matrix, by power iterations on it and on its inverse."""
    start = torch.randn(len(system), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    high = low = start.to(system.device)
    for _ in range(ITERATIONS):
        high = system @ (high / high.norm())
        low = torch.cholesky_solve(low / low.norm(), factor)
    return float(high.norm() * low.norm())
