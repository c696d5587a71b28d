"""Calibration, block by block: hidden states in, statistics of every linear layer, hidden states out."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from pruning_core.calibration.expert_statistics import StageStatistics
from pruning_core.calibration.hidden_states import HiddenStates
from pruning_core.calibration.shards import WHOLE, ShardedStatistics, Shards
from pruning_core.calibration.staged_forward import InputGroup, input_groups, run_in_stages, watching
from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.errors import ComputationError, InputError
from pruning_core.model.decoder import Decoder, matrix
from pruning_core.model.experts import Stage
from pruning_core.progress import Progress, ignore_progress


def groups_of(decoder: Decoder, index: int, states: HiddenStates) -> list[InputGroup]:
    """The input groups of a loaded block, in order of execution; a stage of experts is a group by its own name.

    Raises:
        ComputationError: a linear layer of the block takes no part in its forward.
    """
    linears = decoder.watched(index)
    first = states.tokens[0][:1, :2]
    call = decoder.calls(first)[index]
    groups = input_groups(linears, lambda: call.run(decoder.blocks[index], states.batches[0][:1, :2]))
    reached = {name for group in groups for name in group.names}
    unused = [name for name in linears if name not in reached]
    if unused:
        raise ComputationError(
            f"{unused[0]} takes no part in the forward of its block; this model cannot be calibrated"
        )
    return groups


@torch.no_grad()
def propagate(decoder: Decoder, index: int, states: HiddenStates, progress: Progress = ignore_progress) -> None:
    """Replace the states by the outputs of the loaded block."""
    for position, forward in enumerate(states.forwards(decoder, index)):
        states.advance(position, forward(), index)
        progress(position + 1, len(states.batches))


@torch.no_grad()
def collect(
    decoder: Decoder,
    index: int,
    states: HiddenStates,
    *,
    full: bool = True,
    pool: bool = True,
    advance: bool = True,
    shards: Shards = WHOLE,
    progress: Progress = ignore_progress,
) -> list[tuple[InputGroup, LayerStatistics]]:
    """Statistics of every input group of the loaded block from one forward.

    Args:
        full: keep whole Hessians; otherwise only their diagonals.
        pool: take all tokens of a layer for experts with too few of their own
            (`pruning_core.calibration.expert_statistics`).
        advance: also replace the states by the block's outputs; otherwise the forward ends where the last group begins.
        shards: the states are those of this process's shard, or of all of them one after another.
    """
    linears = decoder.watched(index)
    groups = groups_of(decoder, index, states)
    batches = len(states.batches)
    statistics = [_empty(linears, group, full, pool, shards, batches) for group in groups]
    forwards = states.forwards(decoder, index)

    def arrive(group: int, inputs: Any) -> None:
        statistics[group].add(inputs)
        states.release()
        if not advance and group == len(groups) - 1:
            raise _SeenAll

    with watching(linears, groups, arrive):
        for position, forward in enumerate(forwards):
            with suppress(_SeenAll):
                states.advance(position, forward(), index)
            progress(position + 1, len(states.batches))
    return [part for pair in zip(groups, statistics, strict=True) for part in _parts(*pair, states, shards)]


@torch.no_grad()
def collect_in_stages(
    decoder: Decoder,
    index: int,
    states: HiddenStates,
    complete: Callable[[InputGroup, LayerStatistics], None],
    *,
    full: bool = True,
    pool: bool = True,
    advance: bool = True,
    shards: Shards = WHOLE,
    progress: Progress = ignore_progress,
) -> None:
    """One forward in which `complete(group, statistics)` changes a group's weights before any token passes it.

    Args:
        full: keep whole Hessians; otherwise only their diagonals.
        pool: take all tokens of a layer for experts with too few of their own
            (`pruning_core.calibration.expert_statistics`).
        advance: also replace the states by the block's outputs; otherwise the forward ends with the last group.
        shards: as in `collect`.
    """
    linears = decoder.watched(index)
    groups = groups_of(decoder, index, states)
    batches = len(states.batches)
    statistics = {place: _empty(linears, group, full, pool, shards, batches) for place, group in enumerate(groups)}

    def arrive(group: int, inputs: Any) -> None:
        statistics[group].add(inputs)
        states.release()

    def finish(group: int) -> None:
        for part, collected in _parts(groups[group], statistics.pop(group), states, shards):
            complete(part, collected)
        progress(group + 1, len(groups))

    def leave(position: int, output: Tensor) -> None:
        states.advance(position, output, index)

    run_in_stages(
        states.forwards(decoder, index),
        linears,
        groups,
        arrive,
        finish,
        leave if advance else None,
    )


def _empty(
    linears: dict[str, nn.Module], group: InputGroup, full: bool, pool: bool, shards: Shards, batches: int
) -> ShardedStatistics | StageStatistics:
    module = linears[group.names[0]]
    if isinstance(module, Stage):
        if shards.count > 1:
            raise InputError("the experts of a mixture are calibrated in one shard; set compute.shards to 1")
        return StageStatistics(module, group.names[0], full, pool)
    return shards.statistics(matrix(module).shape[1], full, batches)


def _parts(
    group: InputGroup, statistics: ShardedStatistics | StageStatistics, states: HiddenStates, shards: Shards
) -> Iterator[tuple[InputGroup, LayerStatistics]]:
    """The groups of matrices that a watched group stands for."""
    parts = statistics.parts() if isinstance(statistics, StageStatistics) else [(group, statistics.total())]
    sequences = shards.summed(states.sequences)
    for part, collected in parts:
        # Inputs that were flattened on the way do not say how many sequences they are.
        collected.sequences = sequences
        yield part, collected


class _SeenAll(Exception):
    """Raised to leave a forward whose remaining work nobody needs."""
