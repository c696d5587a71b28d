"""Wanda's score squared: what any other saliency of a column sweep has to beat."""

from pruning_core.saliency import SALIENCIES
from pruning_core.saliency.wanda import Wanda


@SALIENCIES.register("wanda_squared")
class WandaSquared(Wanda):
    """w_ij^2 H_jj, the exact loss of removing one weight without compensation (optimal brain damage).

    Ranks as `wanda` does; under its own name it is the baseline of every comparison of saliencies in a column sweep,
    since the published ISC is close to it where activations are large.
    """
