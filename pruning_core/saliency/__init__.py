"""Saliencies: the score of a weight; larger means keep.

Every saliency here is separable: score[i, j] = weight[i, j]^2 * column_scale[j]. That lets one kernel of the column
sweep serve all of them, also where a mask is chosen on weights that were already compensated.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from pruning_core.errors import required
from pruning_core.registry import Registry


@dataclass(frozen=True)
class ColumnStatistics:
    """Per-column facts of one layer, each [in] float32; only what a saliency's `needs` ask for is set."""

    hessian_diag: Tensor | None = field(default=None, repr=False)
    """H_jj of X^T X / tokens, undamped ("hessian_diag", "factor")."""
    damped_diag: Tensor | None = field(default=None, repr=False)
    """H_jj after damping ("factor")."""
    factor_diag: Tensor | None = field(default=None, repr=False)
    """u_j: diagonal of the upper factor of the damped inverse Hessian ("factor")."""
    inverse_diag: Tensor | None = field(default=None, repr=False)
    """[H^-1]_jj of the damped Hessian ("factor")."""
    tokens_per_sequence: float = 1.0
    """Mean length of the calibration sequences: some published codes divide H by sequences, not tokens."""

    def of(self, fact: Literal["hessian_diag", "damped_diag", "factor_diag", "inverse_diag"]) -> Tensor:
        """The fact of that name.

        Raises:
            ComputationError: it is not set, since the saliency's `needs` do not ask for it.
        """
        tensor: Tensor | None = getattr(self, fact)
        return required(tensor, fact)


class Saliency(Protocol):
    """A saliency: a frozen dataclass registered under its name; its fields are its params.yaml keys."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    """Subset of {"hessian_diag", "factor"}."""

    def column_scale(self, columns: ColumnStatistics, in_features: int) -> Tensor | None:
        """[in] float32, non-negative; None means 1 everywhere."""
        ...


SALIENCIES: Registry[Saliency] = Registry("saliency", "pruning_core.saliency")
