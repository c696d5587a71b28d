"""Magnitude: the weight itself."""

from pruning_core.saliency import SALIENCIES, ColumnStatistics


@SALIENCIES.register("magnitude")
class Magnitude:
    """w^2, which ranks as |w| does. The baseline of every pruning paper; needs no calibration."""

    needs = frozenset[str]()

    def column_scale(self, columns: ColumnStatistics, in_features: int) -> None:
        return None
