"""Whether two models differ, judged on the same windows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruning_core.errors import InputError
from pruning_core.evaluation.forward import standard_error


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over windows, in nats per token, with its standard error (None for a single window).

    Windows differ much more from each other than models do, so the paired error is the one that tells
    two models apart.
    """

    mean: float
    standard_error: float | None
    windows: int

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity of a over that of b; infinite where that exceeds every float."""
        return float(torch.tensor(self.mean, dtype=torch.float64).exp())


def paired_difference(a_losses: Tensor, b_losses: Tensor) -> PairedDifference:
    """The difference of two models' losses over the same windows.

    Args:
        a_losses: [windows] nats per token.
        b_losses: [windows] nats per token, of the same windows in the same order.

    Raises:
        InputError: different numbers of windows, or none.
    """
    if a_losses.shape != b_losses.shape or a_losses.ndim != 1 or a_losses.numel() == 0:
        raise InputError(
            f"a paired difference needs losses over the same windows, got shapes {list(a_losses.shape)}"
            f" and {list(b_losses.shape)}; evaluate both models with one protocol"
        )
    difference = a_losses.double() - b_losses.double()
    return PairedDifference(float(difference.mean()), standard_error(difference), difference.numel())
