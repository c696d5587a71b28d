"""The outputs of one block as an objective, and the two streams of hidden states that lead up to it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pruning_core.model.decoder import Decoder
from pruning_core.recovery.training.objective import Objective


class _Reached(Exception):
    """Raised to leave a block's forward once the watched module has put out its values."""


@dataclass
class Streams:
    """What enters a block in the model that is trained and in the dense one; [windows, tokens, width] float32 each."""

    decoder: Decoder
    dense: Decoder
    tokens: Tensor = field(repr=False)
    states: Tensor = field(repr=False)
    dense_states: Tensor = field(repr=False)
    micro_batch: int

    @classmethod
    def at_entry(cls, decoder: Decoder, dense: Decoder, tokens: Tensor, micro_batch: int) -> "Streams":
        """Of `tokens` [windows, length] int64, before block 0."""
        parts = tokens.split(micro_batch)
        states, dense_states = (torch.cat([one.enter(part) for part in parts]) for one in (decoder, dense))
        return cls(decoder, dense, tokens, states, dense_states, micro_batch)

    def output(self, index: int, rows: Tensor, watched: str | None) -> Tensor:
        """What the trained model's block, or its module `watched`, puts out for the windows `rows`; takes gradients."""
        return self._run(self.decoder, index, self.states, rows, watched)

    @torch.no_grad()
    def target(self, index: int, watched: str | None) -> Tensor:
        """The same of the dense model, for all windows."""
        parts = torch.arange(len(self.tokens)).split(self.micro_batch)
        return torch.cat([self._run(self.dense, index, self.dense_states, rows, watched) for rows in parts])

    @torch.no_grad()
    def advance(self, index: int) -> None:
        """Pass the block in both models."""
        dense_states = self.target(index, None)
        parts = torch.arange(len(self.tokens)).split(self.micro_batch)
        self.states = torch.cat([self.output(index, rows, None) for rows in parts])
        self.dense_states = dense_states

    def _run(self, decoder: Decoder, index: int, states: Tensor, rows: Tensor, watched: str | None) -> Tensor:
        block = decoder.blocks[index]
        # All windows have one length, so that masks and positions depend on their number alone.
        call = decoder.calls(self.tokens[rows])[index]
        if watched is None:
            return call.run(block, states[rows])
        return _seen(block.get_submodule(watched), lambda: call.run(block, states[rows]))


def _seen(module: nn.Module, forward: Callable[[], Tensor]) -> Tensor:
    """The output of `module` inside a forward, which ends there."""
    seen: list[Tensor] = []

    def stop(module: nn.Module, args: tuple[Any, ...], output: Tensor | tuple[Any, ...]) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)
        raise _Reached

    handle = module.register_forward_hook(stop)
    try:
        forward()
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen[0]


class BlockObjective(Objective):
    """Squared distance to the dense output, relative to that output's squared size.

    Args:
        parameters, masks: as in `Objective`.
        training, held_out: the streams that enter the block.
        index: of the block.
        watched: name of the module inside the block whose output counts; None for the block's own.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        training: Streams,
        held_out: Streams,
        index: int,
        watched: str | None,
        masks: dict[str, Tensor],
    ) -> None:
        super().__init__(parameters, len(training.tokens), training.micro_batch, masks)
        self.index, self.watched = index, watched
        self.training, self.validation = training, held_out
        self.targets = {id(streams): streams.target(index, watched) for streams in (training, held_out)}

    def loss(self, rows: Tensor) -> Tensor:
        """See `Objective.loss`."""
        return self._distance(self.training, rows)

    @torch.no_grad()
    def held_out(self) -> float:
        """The same over all validation windows."""
        parts = torch.arange(len(self.validation.tokens)).split(self.micro_batch)
        total = sum(self._distance(self.validation, rows).item() * len(rows) for rows in parts)
        return total / len(self.validation.tokens)

    def _distance(self, streams: Streams, rows: Tensor) -> Tensor:
        target = self.targets[id(streams)]
        output = streams.output(self.index, rows, self.watched)
        return (output - target[rows]).square().mean() / target.square().mean()
