"""Probes: by how much the loss rises when groups are switched off."""

import torch
from torch import Tensor

from pruning_core.calibration.collect import propagate
from pruning_core.calibration.hidden_states import HiddenStates, micro_batch
from pruning_core.calibration.resumed_forward import ResumedForward
from pruning_core.evaluation.perplexity import window_loss
from pruning_core.model.coupled_groups import Site
from pruning_core.progress import Progress, ignore_progress
from pruning_core.structured.scoring_inputs import ScoringInputs


def probe_groups(values: Tensor, count: int) -> list[int]:
    """`count` groups evenly spread over the ranks of `values` [groups], ascending; all where there are fewer."""
    order = values.argsort(stable=True)
    if count >= len(order):
        return sorted(order.tolist())
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) * len(order) / count
    return sorted(order[middles.long()].tolist())


@torch.no_grad()
def measured_losses(
    inputs: ScoringInputs, sets_of_groups: dict[str, list[list[int]]], tokens: int, progress: Progress = ignore_progress
) -> dict[str, Tensor]:
    """Site name -> rise of the mean loss in nats per token [sets] float64, each set of groups off by itself.

    What lies before their block is not run again.

    Args:
        sets_of_groups: site name -> sets of groups.
        tokens: that the loss is taken of, in whole windows, at least one.
    """
    windows = inputs.text()[: max(1, tokens // inputs.text().shape[1])]
    states = HiddenStates.at_entry(inputs.decoder, windows, micro_batch(windows.shape[1], inputs.batch))
    resumed = ResumedForward(inputs.decoder)
    dense = _loss(resumed, states, 0)
    rises, done, total = {}, 0, sum(len(sets) for sets in sets_of_groups.values())
    for index in range(len(inputs.decoder)):
        for site in inputs.of_block(index):
            if site.name not in sets_of_groups:
                continue
            losses = []
            for groups in sets_of_groups[site.name]:
                losses.append(_without(inputs, site, groups, resumed, states))
                done += 1
                progress(done, total)
            rises[site.name] = torch.tensor(losses, dtype=torch.float64) - dense
        propagate(inputs.decoder, index, states)
    return rises


def _without(
    inputs: ScoringInputs, site: Site, groups: list[int], resumed: ResumedForward, states: HiddenStates
) -> float:
    consumer = site.consumer
    weight, columns = inputs.weight(consumer.name), consumer.index[groups].flatten().to(inputs.decoder.device)
    kept = weight.index_select(consumer.axis, columns)
    weight.index_fill_(consumer.axis, columns, 0.0)
    try:
        return _loss(resumed, states, site.block)
    finally:
        weight.index_copy_(consumer.axis, columns, kept)


def _loss(resumed: ResumedForward, states: HiddenStates, index: int) -> float:
    """Mean over all windows of the loss from the states that enter a block."""
    total, windows = 0.0, 0
    for tokens, hidden in zip(states.tokens, states.batches, strict=True):
        for row, logits in zip(tokens, resumed.logits(tokens, index, hidden), strict=True):
            total += window_loss(logits[:-1], row[1:].to(logits.device), windows)
            windows += 1
    return total / windows
