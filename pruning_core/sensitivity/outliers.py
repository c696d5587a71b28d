"""OWL: the share of outliers among a block's weights."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from pruning_core.progress import Progress, ignore_progress
from pruning_core.sensitivity import SENSITIVITIES, Profile, SensitivityInputs, Statistics
from pruning_core.sensitivity.estimation.loaded_matrices import loaded_matrices
from pruning_core.sensitivity.estimation.repeated_measurements import per_block_profile


@SENSITIVITIES.register("outliers")
class Outliers:
    """Percent of a block's scores |w_ij| ||x_j|| that exceed `multiple` times their mean (OWL, arXiv:2310.05175).

    The scores of all matrices of a block are one population. ||x_j|| is the root mean square over the tokens that
    reach the matrix: the same shares as with the published sum, where all matrices of a block see all tokens.
    """

    multiple: Annotated[float, Field(gt=0)] = 5.0
    needs = frozenset({"weights", "statistics"})

    def measure(self, inputs: SensitivityInputs, progress: Progress = ignore_progress) -> Profile:
        """The matrices of a block share its value."""
        count = 1 + max(matrix.block for matrix in inputs.matrices)
        shares = []
        for index in range(count):
            with loaded_matrices(inputs.model, index) as weights:
                shares.append(self._share(weights, inputs.block_statistics, index))
            progress(index + 1, count)
        return per_block_profile(shares, inputs.matrices, {})

    def _share(self, weights: dict[str, Tensor], statistics: Statistics, index: int) -> float:
        norms = {
            name: layer.hessian_diag().sqrt().to(weights[name].device)
            for group, layer in statistics(index)
            for name in group.names
        }
        # Scores are made twice rather than kept: together they are as large as the block in float32.
        total = sum(float(_scores(weights[name], norm).sum(dtype=torch.float64)) for name, norm in norms.items())
        size = sum(weights[name].numel() for name in norms)
        if not size:
            return 0.0
        limit = self.multiple * total / size
        return 100 * sum(int((_scores(weights[name], norm) > limit).sum()) for name, norm in norms.items()) / size


def _scores(weight: Tensor, norms: Tensor) -> Tensor:
    return weight.float().abs() * norms
