"""What enters a block: the hidden states of the calibration tokens, in memory or in a memory-mapped file."""

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pruning_core.decoder import Decoder
from pruning_core.errors import ComputationError

TOKENS_PER_FORWARD = 2048
"""Tokens of a micro-batch whose size nobody set: large enough for full matrix speed, small enough for the caches."""


def micro_batch(length: int, batch: int | None = None) -> int:
    """Sequences per forward: `batch` where given, otherwise as many as make TOKENS_PER_FORWARD tokens, at least one."""
    return batch or max(1, TOKENS_PER_FORWARD // length)


@dataclass
class HiddenStates:
    """What enters a block, one tensor [sequences, tokens, width] per micro-batch."""

    batches: list[Tensor] = field(repr=False)
    tokens: list[Tensor] = field(repr=False)
    """The micro-batches of token ids, each [sequences, tokens] int64."""
    mapped: "MappedStates | None" = field(default=None, repr=False)
    """Where the batches are views of a file."""

    @classmethod
    def at_entry(
        cls, decoder: Decoder, windows: Tensor, batch: int | None = None, file: Path | None = None
    ) -> "HiddenStates":
        """States entering block 0.

        Args:
            windows: calibration windows [sequences, tokens] int64.
            batch: sequences per forward, see `micro_batch`.
            file: made and memory-mapped to hold the states; in memory when absent.
        """
        tokens = list(windows.split(micro_batch(windows.shape[1], batch)))
        entering = (decoder.enter(part) for part in tokens)
        if file is None:
            return cls(list(entering), tokens)
        first = next(entering)
        mapped = MappedStates(file, (*windows.shape, first.shape[-1]), first.dtype)
        states = cls(list(mapped.states.split(len(tokens[0]))), tokens, mapped)
        states._put(0, first)
        for position, part in enumerate(entering, 1):
            states._put(position, part)
        return states

    @property
    def sequences(self) -> int:
        """How many sequences there are in all micro-batches."""
        return sum(len(part) for part in self.tokens)

    def advance(self, position: int, output: Tensor, index: int) -> None:
        """Put the output of block `index` in the place of what entered it.

        Raises:
            ComputationError: the output holds NaN or inf.
        """
        # A sum is finite only where every entry is; where it is not the slower look decides.
        if not torch.isfinite(output.sum()) and not torch.isfinite(output).all():
            raise ComputationError(
                f"block {index} puts out NaN or inf on the calibration text; check the model with `espalier evaluate` "
                "before compressing it"
            )
        self._put(position, output)

    def _put(self, position: int, output: Tensor) -> None:
        if self.mapped is None:
            self.batches[position] = output
            return
        self.batches[position].copy_(output)
        self.mapped.release()

    def forwards(self, decoder: Decoder, index: int) -> list[Callable[[], Tensor]]:
        """One call per micro-batch that runs the loaded block on its states."""
        block = decoder.blocks[index]

        # Looked up before any layer is watched: the first look runs block 0 once, which no statistics may count.
        calls = [decoder.calls(tokens)[index] for tokens in self.tokens]

        def forward(position: int) -> Callable[[], Tensor]:
            return lambda: calls[position].run(block, self.batches[position].to(decoder.device))

        return [forward(position) for position in range(len(self.batches))]


class MappedStates:
    """A file of hidden states that the system pages in and out.

    Args:
        file: made, or overwritten.
        shape: (sequences, tokens, width).
        dtype: of the states.
    """

    def __init__(self, file: Path, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        size = torch.Size(shape).numel() * dtype.itemsize
        with file.open("w+b") as opened:
            opened.truncate(size)
            self._map = mmap.mmap(opened.fileno(), size)
        self.states = torch.frombuffer(self._map, dtype=dtype).view(shape)

    def release(self) -> None:
        """Count no page of the file as this process's memory; the system still caches what fits."""
        self._map.madvise(mmap.MADV_DONTNEED)
