"""Fluctuation: how much what a group computes varies; what is constant a bias can replace."""

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from pruning_core.model.coupled_groups import Site
from pruning_core.progress import Progress, ignore_progress
from pruning_core.structured.importance import IMPORTANCES
from pruning_core.structured.input_variance import Spread, consumer_inputs
from pruning_core.structured.scores import Scores
from pruning_core.structured.scoring_inputs import ScoringInputs


@IMPORTANCES.register("fluctuation")
class Fluctuation:
    """FLAP's WIFV (arXiv:2312.11983): variance of input c times ||w_c||^2, column c of the consumer.

    That of attention is squared, as the authors' code does. Both are standardised over the inputs of a matrix, so that
    blocks compare, and averaged over the inputs that a group owns. The variance is around the true mean.
    """

    needs = frozenset({"tokens"})

    def score(self, inputs: ScoringInputs, progress: Progress = ignore_progress) -> Scores:
        values = {}
        for index, spreads in consumer_inputs(inputs, progress):
            for site in inputs.of_block(index):
                values[site.name] = self._of(inputs, site, spreads[site.consumer.matrix]).cpu()
        # Standardised scores have no unit: that of a head stands for it as a channel's does.
        return Scores(values, per_parameter=False)

    def _of(self, inputs: ScoringInputs, site: Site, spread: Spread) -> Tensor:
        consumer = site.consumer
        weight = inputs.weight(consumer.name).double()
        transposed = isinstance(inputs.decoder.model.get_submodule(consumer.matrix), Conv1D)
        metric = spread.variance * weight.square().sum(1 if transposed else 0)
        if site.family != "mlp":
            metric = metric.square()
        deviation = metric.std(correction=0)
        standard = (metric - metric.mean()) / deviation if deviation > 0 else torch.zeros_like(metric)
        return standard[consumer.index].mean(1)
