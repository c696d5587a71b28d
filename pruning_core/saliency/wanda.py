"""Wanda: weight times input norm."""

from torch import Tensor

from pruning_core.saliency import SALIENCIES, ColumnStatistics


@SALIENCIES.register("wanda")
class Wanda:
    """w_ij^2 ||x_j||^2, which ranks as |w_ij| ||x_j|| does (arXiv:2306.11695, eq. 1)."""

    needs = frozenset({"hessian_diag"})

    def column_scale(self, columns: ColumnStatistics, in_features: int) -> Tensor:
        return columns.of("hessian_diag")
