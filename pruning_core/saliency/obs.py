"""OBS: the loss of removing a weight when the columns to its right may adapt."""

from torch import Tensor

from pruning_core.saliency import SALIENCIES, ColumnStatistics


@SALIENCIES.register("obs")
class OptimalBrainSurgeon:
    """w_ij^2 / u_j^2, u_j^2 = [inverse of H_d[j:, j:]]_00 (SparseGPT, arXiv:2301.00774, eq. 3 and algorithm 1)."""

    needs = frozenset({"factor"})

    def column_scale(self, columns: ColumnStatistics, in_features: int) -> Tensor:
        return columns.of("factor_diag").square().reciprocal()
