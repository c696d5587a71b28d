"""Inputs of an importance: a model, its groups, and a text."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from pruning_core.calibration.collect import collect
from pruning_core.calibration.hidden_states import HiddenStates, micro_batch
from pruning_core.errors import InputError
from pruning_core.model.coupled_groups import Site
from pruning_core.model.decoder import Decoder
from pruning_core.progress import Progress, ignore_progress


@dataclass(frozen=True, eq=False)
class ScoringInputs:
    """A model whose groups are to be scored.

    Args:
        decoder: by `pruning_core.model.whole_model.load_whole` for importances that need "whole".
        sites: its groups.
        windows: calibration windows [sequences, tokens] int64, for importances that need "tokens".
        batch: sequences per forward; None takes `pruning_core.calibration.hidden_states.micro_batch`.
    """

    decoder: Decoder
    sites: tuple[Site, ...]
    windows: Tensor | None = field(default=None, repr=False)
    batch: int | None = None

    def text(self) -> Tensor:
        """The windows.

        Raises:
            InputError: there are none.
        """
        if self.windows is None or not len(self.windows):
            raise InputError("this importance looks at a text; give it calibration windows")
        return self.windows

    def states(self) -> HiddenStates:
        """The hidden states that enter block 0."""
        return HiddenStates.at_entry(self.decoder, self.text(), micro_batch(self.text().shape[1], self.batch))

    def blocks(self) -> Iterator[tuple[int, nn.Module]]:
        """Every block with its number; one that was on disk is in memory while it is looked at."""
        for index, block in enumerate(self.decoder.blocks):
            with loaded(self.decoder, index):
                yield index, block

    def of_block(self, index: int) -> list[Site]:
        """The sites of a block."""
        return [site for site in self.sites if site.block == index]

    def weight(self, name: str) -> Tensor:
        """A parameter of a block in memory."""
        return self.decoder.model.get_parameter(name).detach()


@contextmanager
def loaded(decoder: Decoder, index: int) -> Iterator[nn.Module]:
    """The block in memory; one that was there before stays."""
    absent = next(decoder.blocks[index].parameters()).is_meta
    if absent:
        decoder.load_block(index)
    try:
        yield decoder.blocks[index]
    finally:
        if absent:
            decoder.drop_block(index)


def input_squares(
    inputs: ScoringInputs, progress: Progress = ignore_progress
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Block by block, with the block in memory: name of every matrix -> mean squares of its inputs [in] float64."""
    states = inputs.states()
    for index, _ in inputs.blocks():
        last = index + 1 == len(inputs.decoder)
        collected = collect(inputs.decoder, index, states, full=False, advance=not last)
        squares = {name: layer.hessian_diag().double() for group, layer in collected for name in group.names}
        yield index, squares
        progress(index + 1, len(inputs.decoder))
