"""Mean and variance of the inputs of the matrices that read groups, in one pass."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from pruning_core.calibration.collect import propagate
from pruning_core.errors import required
from pruning_core.progress import Progress, ignore_progress
from pruning_core.structured.scoring_inputs import ScoringInputs


@dataclass
class Spread:
    """Welford's running mean and sum of squared deviations, merged batch by batch (Chan et al., 1983)."""

    tokens: int = 0
    mean: Tensor | None = field(default=None, repr=False)
    """[in] float64."""
    deviations: Tensor | None = field(default=None, repr=False)

    def add(self, inputs: Tensor) -> None:
        """Take in `inputs`: [..., in], any float dtype."""
        rows = inputs.detach().reshape(-1, inputs.shape[-1]).double()
        mean = rows.mean(0)
        deviations = (rows - mean).square().sum(0)
        if self.mean is None or self.deviations is None:
            self.tokens, self.mean, self.deviations = len(rows), mean, deviations
            return
        total = self.tokens + len(rows)
        shift = mean - self.mean
        self.deviations += deviations + shift.square() * (self.tokens * len(rows) / total)
        self.mean += shift * (len(rows) / total)
        self.tokens = total

    @property
    def variance(self) -> Tensor:
        """[in] float64, over all tokens."""
        return required(self.deviations, "the inputs of a matrix") / self.tokens


@torch.no_grad()
def consumer_inputs(
    inputs: ScoringInputs, progress: Progress = ignore_progress
) -> Iterator[tuple[int, dict[str, Spread]]]:
    """Block by block, with the block in memory: name of each consumer -> spread of its inputs in the dense model."""
    states = inputs.states()
    for index, _ in inputs.blocks():
        spreads = {site.consumer.matrix: Spread() for site in inputs.of_block(index)}
        # The look that finds out how the model calls its blocks runs block 0, which no statistics may count.
        states.forwards(inputs.decoder, index)
        handles = [_watch(inputs, name, spread) for name, spread in spreads.items()]
        try:
            propagate(inputs.decoder, index, states)
        finally:
            for handle in handles:
                handle.remove()
        yield index, spreads
        progress(index + 1, len(inputs.decoder))


def _watch(inputs: ScoringInputs, name: str, spread: Spread) -> RemovableHandle:
    module = inputs.decoder.model.get_submodule(name)
    handle: RemovableHandle = module.register_forward_pre_hook(lambda _, args: spread.add(args[0]))
    return handle
