"""Calibration, block by block: hidden states in, statistics of every linear layer, hidden states out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pruning_core.decoder import Decoder
from pruning_core.errors import ComputationError
from pruning_core.expert_statistics import StageStatistics
from pruning_core.experts import Stage
from pruning_core.progress import Progress, ignore_progress
from pruning_core.staging import InputGroup, input_groups, run_in_stages, watching
from pruning_core.statistics import LayerStatistics


@dataclass
class HiddenStates:
    """What enters a block, one tensor [sequences, tokens, width] float32 per micro-batch."""

    batches: list[Tensor] = field(repr=False)
    tokens: list[Tensor] = field(repr=False)
    """The micro-batches of token ids, each [sequences, tokens] int64."""

    @classmethod
    def at_entry(cls, decoder: Decoder, windows: Tensor, batch: int) -> "HiddenStates":
        """States entering block 0 for calibration `windows` [sequences, tokens], `batch` sequences at a time."""
        tokens = list(windows.split(batch))
        return cls([decoder.enter(part) for part in tokens], tokens)

    @property
    def sequences(self) -> int:
        """How many sequences there are in all micro-batches."""
        return sum(len(part) for part in self.tokens)

    def forwards(self, decoder: Decoder, index: int) -> list[Callable[[], Tensor]]:
        """One call per micro-batch that runs the loaded block on its states."""
        block = decoder.blocks[index]

        # Looked up before any layer is watched: the first look runs block 0 once, which no statistics may count.
        calls = [decoder.calls(tokens)[index] for tokens in self.tokens]

        def forward(position: int) -> Callable[[], Tensor]:
            return lambda: calls[position].run(block, self.batches[position])

        return [forward(position) for position in range(len(self.batches))]


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
    """Replace the states by what the loaded block makes of them."""
    for position, forward in enumerate(states.forwards(decoder, index)):
        states.batches[position] = _finite(forward(), index)
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
    progress: Progress = ignore_progress,
) -> list[tuple[InputGroup, LayerStatistics]]:
    """Statistics of every input group of the loaded block from one forward.

    Args:
        full: keep whole Hessians; otherwise only their diagonals.
        pool: take all tokens of a layer for experts with too few of their own (`pruning_core.expert_statistics`).
        advance: also replace the states by the block's outputs.
    """
    linears = decoder.watched(index)
    groups = groups_of(decoder, index, states)
    statistics = [_empty(linears, group, full, pool) for group in groups]
    forwards = states.forwards(decoder, index)
    with watching(linears, groups, lambda group, inputs: statistics[group].add(inputs)):
        for position, forward in enumerate(forwards):
            output = _finite(forward(), index)
            if advance:
                states.batches[position] = output
            progress(position + 1, len(states.batches))
    return [part for pair in zip(groups, statistics, strict=True) for part in _parts(*pair, states)]


@torch.no_grad()
def collect_in_stages(
    decoder: Decoder,
    index: int,
    states: HiddenStates,
    full: bool,
    complete: Callable[[InputGroup, LayerStatistics], None],
    progress: Progress = ignore_progress,
    pool: bool = True,
) -> None:
    """One forward in which `complete(group, statistics)` changes a group's weights before any token passes it."""
    linears = decoder.watched(index)
    groups = groups_of(decoder, index, states)
    statistics = [_empty(linears, group, full, pool) for group in groups]

    def finish(group: int) -> None:
        for part, known in _parts(groups[group], statistics[group], states):
            complete(part, known)
        statistics[group] = None
        progress(group + 1, len(groups))

    outputs = run_in_stages(
        states.forwards(decoder, index),
        linears,
        groups,
        lambda group, inputs: statistics[group].add(inputs),
        finish,
    )
    states.batches = [_finite(output, index) for output in outputs]


def _empty(
    linears: dict[str, nn.Module], group: InputGroup, full: bool, pool: bool
) -> LayerStatistics | StageStatistics:
    module = linears[group.names[0]]
    if isinstance(module, Stage):
        return StageStatistics(module, group.names[0], full, pool)
    in_features = module.nx if hasattr(module, "nx") else module.in_features
    return LayerStatistics(in_features, full)


def _parts(
    group: InputGroup, statistics: LayerStatistics | StageStatistics, states: HiddenStates
) -> Iterator[tuple[InputGroup, LayerStatistics]]:
    """The groups of matrices that a watched group stands for."""
    parts = statistics.parts() if isinstance(statistics, StageStatistics) else [(group, statistics)]
    for part, known in parts:
        # Inputs that were flattened on the way do not say how many sequences they are.
        known.sequences = states.sequences
        yield part, known


def _finite(states: Tensor, index: int) -> Tensor:
    if not torch.isfinite(states).all():
        raise ComputationError(
            f"block {index} puts out NaN or inf on the calibration text; check the model with `espalier evaluate` "
            "before compressing it"
        )
    return states
