"""The damped inverse Hessian as one triangular factor, with a recorded retry policy."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pruning_core.errors import ComputationError
from pruning_core.numerics.finite import all_finite

DAMPING_CEILING = 1.0
"""Largest damping, as a fraction of the mean diagonal, that a retry may reach."""
SMALL = 256
"""Rows of a triangular matrix up to which it is inverted at once."""
FACTOR_FAILED = "factor_failed"
"""The event of a Hessian that no rung of the ladder could factor."""


@dataclass(frozen=True)
class InverseFactor:
    """H_d^-1 = U^T U of the damped Hessian H_d.

    Row j of U is conditioned on columns 0..j-1 being fixed, so one factor serves a whole column sweep:
    U[j, j]^2 is entry (0, 0) of the inverse of H_d[j:, j:] (SparseGPT, arXiv:2301.00774, section 3.2).
    """

    upper: Tensor = field(repr=False)
    """[in, in] float32, upper triangular."""
    damped_diag: Tensor = field(repr=False)
    """[in] float32: diagonal of H_d."""
    dead: Tensor = field(repr=False)
    """[in] bool: inputs that were zero on every calibration token."""
    damping: float
    """Absolute value that was added to the diagonal."""
    events: tuple[dict[str, Any], ...] = ()
    """The ledger: dead columns, every retry that was needed, and whether all of them failed."""

    @property
    def failed(self) -> bool:
        """Whether the Hessian could not be factored, so that this is the factor of its damped diagonal alone."""
        return any(event["event"] == FACTOR_FAILED for event in self.events)

    @property
    def diag(self) -> Tensor:
        """[in] float32: u_j = U[j, j]."""
        return self.upper.diagonal()

    @property
    def inverse_diag(self) -> Tensor:
        """[in] float32: [H_d^-1]_jj, the squared column norms of U."""
        return self.upper.square().sum(dim=0)


def factorize(hessian: Tensor, damping: float) -> InverseFactor:
    """Factor the damped inverse of `hessian`.

    Dead inputs get a unit diagonal (their weights are the caller's to zero), then `damping` times the mean diagonal is
    added. If that cannot be factored in float32, the damping is raised tenfold, rung by rung, up to DAMPING_CEILING;
    then the same rungs are tried in float64, from the lowest. What was needed is recorded.

    If every rung fails, the result is the factor of the damped diagonal alone, recorded as FACTOR_FAILED. Nothing is
    compensated with it, and the saliencies turn into Wanda's, so the scale of the inputs still counts; an identity
    would rank by magnitude. Whether a run may go on with it is for `pruning_core.compress.fallbacks` to say.

    Args:
        hessian: [in, in] float32, symmetric, finite; not modified.
        damping: fraction of the mean diagonal, > 0.

    Raises:
        ComputationError: every rung failed, and the damped diagonal is not positive, as that of any X^T X is.
    """
    dead = hessian.diagonal() == 0
    some = bool(dead.any())
    # A copy is as large as a block of a small model: only where it differs.
    prepared = hessian.clone() if some else hessian
    if some:
        prepared.diagonal()[dead] = 1.0
    diagonal = prepared.diagonal()
    mean = float(diagonal.double().mean())
    events: list[dict[str, Any]] = [{"event": "dead_columns", "count": int(dead.sum())}] if some else []
    for dtype in (torch.float32, torch.float64):
        for relative in _rungs(damping):
            upper = _inverse_upper(prepared, relative * mean, dtype)
            if upper is not None:
                if relative != damping:
                    events.append({"event": "damping_raised", "from": damping, "to": relative})
                if dtype != torch.float32:
                    events.append({"event": "float64_factor"})
                return InverseFactor(upper, diagonal + relative * mean, dead, relative * mean, tuple(events))
    damped = diagonal + damping * mean
    if not bool((damped > 0).all()):
        raise ComputationError(
            "the Hessian is not positive definite even in float64, and has negative diagonal entries, which no X^T X "
            "has; calibrate again"
        )
    events.append({"event": FACTOR_FAILED, "damping": DAMPING_CEILING, "instead": "diagonal"})
    return InverseFactor(torch.diag(damped.rsqrt()), damped, dead, damping * mean, tuple(events))


def _rungs(damping: float) -> list[float]:
    """`damping` and its tenfolds up to the ceiling, which is always the last."""
    rungs = [damping]
    while rungs[-1] < DAMPING_CEILING:
        # Twelve digits, so that the ledger does not say 9.999999999999997e-07.
        rungs.append(min(float(f"{rungs[-1] * 10:.12g}"), DAMPING_CEILING))
    return rungs


def _inverse_upper(prepared: Tensor, added: float, dtype: torch.dtype) -> Tensor | None:
    """U with (prepared + added I)^-1 = U^T U, or None when it cannot be had in `dtype`.

    Cholesky of the matrix with both axes reversed gives H = R R^T with R upper; then U = R^-1. That is half the work
    of inverting H and factoring the inverse, and never forms the inverse.
    """
    flipped = prepared.flip(0, 1).to(dtype)
    flipped.diagonal().add_(added)
    lower, info = torch.linalg.cholesky_ex(flipped)
    del flipped
    if int(info) != 0:
        return None
    upper = lower.flip(0, 1)
    del lower
    _invert_upper(upper)
    upper = upper.float()
    return upper if all_finite(upper) and bool((upper.diagonal() > 0).all()) else None


def _invert_upper(matrix: Tensor) -> None:
    """Replace an upper triangular matrix by its inverse, in halves, so that nearly all of the work is matrix products.

    [[A, B], [0, C]] has the inverse [[A^-1, -A^-1 B C^-1], [0, C^-1]].
    """
    size = len(matrix)
    if size <= SMALL:
        identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
        matrix.copy_(torch.linalg.solve_triangular(matrix, identity, upper=True))
        return
    half = size // 2
    first, last, corner = matrix[:half, :half], matrix[half:, half:], matrix[:half, half:]
    _invert_upper(first)
    _invert_upper(last)
    corner.copy_(torch.mm(first, corner) @ last).neg_()
