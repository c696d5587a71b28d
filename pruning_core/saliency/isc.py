"""ISC: the improved saliency criterion."""

from typing import Literal

from torch import Tensor

from pruning_core.saliency import SALIENCIES, ColumnStatistics


@SALIENCIES.register("isc")
class ImprovedSaliencyCriterion:
    """OBD saliency + OBS saliency (arXiv:2310.09499, eq. 4).

    form:
        paper: w^2 (H_jj + 1 / [H^-1]_jj), H damped. Bounded by w^2 H_jj times [1, 2].
        code: w^2 (H_jj + 1 / u_j), as the authors' code has it: u_j not squared, H = 2 / sequences X^T X. The two terms
            have different units, so this one depends on the scale of the activations.
    """

    form: Literal["paper", "code"] = "paper"
    needs = frozenset({"factor"})

    def column_scale(self, columns: ColumnStatistics, in_features: int) -> Tensor:
        if self.form == "paper":
            return columns.of("damped_diag") + columns.of("inverse_diag").reciprocal()
        published = 2 * columns.tokens_per_sequence
        root: float = published**0.5
        return published * columns.of("damped_diag") + root / columns.of("factor_diag")
