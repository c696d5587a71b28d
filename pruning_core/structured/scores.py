"""Scores of coupled groups."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pruning_core.errors import ComputationError, InputError
from pruning_core.model.coupled_groups import Site


@dataclass(frozen=True, eq=False)
class Scores:
    """Larger means keep.

    Args:
        values: site name -> [groups] float64.
        per_parameter: whether a score is what the loss rises by when its group goes, so that groups of different sizes
            compare by score per parameter; otherwise scores compare as they are.
        notes: what the method found on its way, as JSON.
    """

    values: dict[str, Tensor] = field(repr=False)
    per_parameter: bool = True
    notes: dict[str, Any] = field(default_factory=dict)

    def of(self, site: Site) -> Tensor:
        """The scores of a site.

        Raises:
            InputError: there are none, or of another number of groups.
            ComputationError: one is not finite.
        """
        values = self.values.get(site.name)
        if values is None or values.shape != (site.groups,):
            raise InputError(f"there are no scores for the {site.groups} groups of {site.name}; score this model")
        if not torch.isfinite(values).all():
            raise ComputationError(
                f"the scores of {site.name} hold NaN or inf; check the model with `espalier evaluate`"
            )
        return values


def mean_one(values: Tensor) -> Tensor:
    """The same proportions with a mean of 1; zeros stay zeros."""
    mean = values.mean()
    return values / mean if mean > 0 else values


def combined(sites: Sequence[Site], first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sums of two kinds of scores, of which each site's have the same mean: the geometric one of their means."""
    result = {}
    for site in sites:
        one, two = first[site.name], second[site.name]
        result[site.name] = (mean_one(one) + mean_one(two)) / 2 * common_scale(one, two)
    return result


def common_scale(one: Tensor, two: Tensor) -> Tensor:
    """The geometric mean of two means: gives scores that were normalised inside a site their rank among sites back."""
    return (one.mean() * two.mean()).sqrt()
