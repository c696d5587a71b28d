"""Whether a tensor holds NaN or inf."""

import torch
from torch import Tensor


def all_finite(values: Tensor) -> bool:
    """Whether every entry is finite; one pass over the memory where all are."""
    # A finite sum has finite terms. Large ones may overflow it, which the slower look then forgives.
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())
