"""Leave-one-out: what pruning a single matrix, or a single block, does to the loss."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pruning_core.calibration.collect import propagate
from pruning_core.calibration.hidden_states import HiddenStates, micro_batch
from pruning_core.calibration.resumed_forward import ResumedForward
from pruning_core.compress.block import compress_block_from, ungrouped
from pruning_core.evaluation.forward import window_batches
from pruning_core.evaluation.perplexity import window_loss
from pruning_core.model.decoder import Decoder
from pruning_core.progress import Progress, ignore_progress
from pruning_core.sensitivity import SENSITIVITIES, Profile, SensitivityInputs, wants_statistics
from pruning_core.sensitivity.estimation.gradients import checked_windows
from pruning_core.sensitivity.estimation.repeated_measurements import (
    Normalise,
    half_sample_correlation,
    profile_of,
    standard_errors,
)


@SENSITIVITIES.register("leave_one_out")
class LeaveOneOut:
    """Increase of the log perplexity where one matrix is pruned with the variant's own method, the others dense.

    Decreases become 0 and are counted. The hidden states that enter a block are kept, so that each matrix costs a
    forward from its own block on. Increases of several matrices do not add up exactly.

    granularity: what is pruned at a time, a matrix or a whole block, whose matrices then share its value.
    normalise: mean per weight, or the increase as it is.
    """

    granularity: Literal["matrix", "block"] = "matrix"
    normalise: Normalise = "sum"
    needs = frozenset({"model", "tokens", "statistics", "method"})

    def measure(self, inputs: SensitivityInputs, progress: Progress = ignore_progress) -> Profile:
        """The mean over windows; its errors are those of a sample of windows, pruned and dense on the same ones."""
        samples = self.increases(inputs, progress)
        details = {
            "windows": samples.shape[1],
            "half_sample_rank_correlation": half_sample_correlation(samples),
            "granularity": self.granularity,
        }
        if self.granularity == "matrix":
            return profile_of(samples, inputs.matrices, self.normalise, details)
        return _shared_by_blocks(samples, inputs, self.normalise, details)

    @torch.no_grad()
    def increases(self, inputs: SensitivityInputs, progress: Progress = ignore_progress) -> Tensor:
        """[matrices or blocks, windows] float64: loss with this one pruned less the dense loss, in nats per token."""
        decoder = inputs.model
        windows = checked_windows(decoder, inputs.tokens)
        states = _states(decoder, windows)
        resumed = ResumedForward(decoder)
        dense = _losses(resumed, states, 0)
        increases: list[Tensor] = []
        count = len(inputs.matrices) if self.granularity == "matrix" else len(decoder)
        for index in range(len(decoder)):
            for _ in _each_pruned(inputs, index, whole=self.granularity == "block"):
                increases.append(_losses(resumed, states, index) - dense)
                progress(len(increases), count)
            propagate(decoder, index, states)
        return torch.stack(increases)


def _states(decoder: Decoder, windows: Tensor) -> HiddenStates:
    # The logits of a micro-batch have to fit as well.
    batch = len(next(window_batches(decoder.model, windows, micro_batch(windows.shape[1]))))
    return HiddenStates.at_entry(decoder, windows, batch)


def _losses(resumed: ResumedForward, states: HiddenStates, index: int) -> Tensor:
    """[windows] float64: the mean loss of each window, from the states that enter block `index`."""
    losses: list[float] = []
    for tokens, hidden in zip(states.tokens, states.batches, strict=True):
        for row, logits in zip(tokens, resumed.logits(tokens, index, hidden), strict=True):
            losses.append(window_loss(logits[:-1], row[1:].to(logits.device), len(losses)))
    return torch.tensor(losses, dtype=torch.float64)


def _each_pruned(inputs: SensitivityInputs, index: int, whole: bool) -> Iterator[None]:
    """Yields with each matrix of the block pruned in turn (or once with all of them), and leaves the block dense."""
    decoder = inputs.model
    linears = decoder.linears(index)
    dense = _weights(linears)
    measured = wants_statistics(LeaveOneOut.needs, inputs.method)
    statistics = inputs.block_statistics(index) if measured else ungrouped(decoder, index)
    try:
        compress_block_from(decoder, index, statistics, inputs.pruning)
        pruned = _weights(linears)
        if whole:
            yield
            return
        for name in linears:
            _put(linears, dense | {name: pruned[name]})
            yield
    finally:
        _put(linears, dense)


def _weights(linears: dict[str, nn.Module]) -> dict[str, nn.Parameter]:
    return {name: module.get_parameter("weight") for name, module in linears.items()}


def _put(linears: dict[str, nn.Module], weights: dict[str, nn.Parameter]) -> None:
    for name, module in linears.items():
        module.weight = weights[name]


def _shared_by_blocks(
    samples: Tensor, inputs: SensitivityInputs, normalise: Normalise, details: dict[str, Any]
) -> Profile:
    """The profile of samples [blocks, windows], whose matrices have the value and the error of their block."""
    sizes = torch.zeros(len(samples), 1, dtype=torch.float64)
    for matrix in inputs.matrices:
        sizes[matrix.block] += matrix.size
    if normalise == "mean":
        samples = samples / sizes.clamp(min=1)
    means, errors = samples.mean(dim=1), standard_errors(samples)
    blocks = means.clamp(min=0).tolist()
    block_errors = None if errors is None else errors.tolist()
    matrix_errors = None
    if block_errors is not None:
        matrix_errors = {matrix.name: block_errors[matrix.block] for matrix in inputs.matrices}
    shared = {matrix.name: blocks[matrix.block] for matrix in inputs.matrices}
    return Profile(shared, blocks, matrix_errors, block_errors, details | {"clamped_blocks": int((means < 0).sum())})
