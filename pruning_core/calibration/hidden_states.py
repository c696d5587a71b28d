"""The hidden states of the calibration tokens that enter a block, in memory or in a memory-mapped file."""

import itertools
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pruning_core.errors import ComputationError
from pruning_core.model.decoder import Decoder
from pruning_core.numerics.finite import all_finite
from pruning_core.numerics.freed_memory import keep_freed_memory

TOKENS_PER_FORWARD = 2048
"""Tokens of a micro-batch whose size nobody set: large enough for full matrix speed, small enough for the caches."""


def micro_batch(length: int, batch: int | None = None) -> int:
    """Sequences per forward: `batch` where given, otherwise as many as make TOKENS_PER_FORWARD tokens, at least one."""
    return batch or max(1, TOKENS_PER_FORWARD // length)


@dataclass
class HiddenStates:
    """The hidden states that enter a block, one tensor [sequences, tokens, width] per micro-batch."""

    batches: list[Tensor] = field(repr=False)
    tokens: list[Tensor] = field(repr=False)
    """The micro-batches of token ids, each [sequences, tokens] int64."""
    mapped: "MappedStates | None" = field(default=None, repr=False)
    """Where the batches are views of a file."""

    @classmethod
    def at_entry(
        cls, decoder: Decoder, windows: Tensor, batch: int | None = None, folder: Path | None = None
    ) -> "HiddenStates":
        """States entering block 0.

        Args:
            windows: calibration windows [sequences, tokens] int64.
            batch: sequences per forward, see `micro_batch`.
            folder: keeps the states in a memory-mapped file there; in memory when absent.
        """
        tokens = list(windows.split(micro_batch(windows.shape[1], batch)))
        return cls._placed((decoder.enter(part) for part in tokens), tokens, folder)

    @classmethod
    def of(cls, batches: Iterator[Tensor], windows: Tensor, batch: int, folder: Path | None = None) -> "HiddenStates":
        """The states of `windows` in micro-batches of `batch` sequences; the other arguments as in `at_entry`."""
        return cls._placed(batches, list(windows.split(batch)), folder)

    @classmethod
    def _placed(cls, batches: Iterator[Tensor], tokens: list[Tensor], folder: Path | None) -> "HiddenStates":
        keep_freed_memory()
        if folder is None:
            return cls(list(batches), tokens)
        first = next(batches)
        sequences = sum(len(part) for part in tokens)
        mapped = MappedStates(folder, (sequences, *first.shape[1:]), first.dtype)
        states = cls(list(mapped.states.split(len(first))), tokens, mapped)
        for position, part in enumerate(itertools.chain([first], batches)):
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
        if not all_finite(output):
            raise ComputationError(
                f"block {index} puts out NaN or inf on the calibration text; check the model with `espalier evaluate` "
                "before compressing it"
            )
        self._put(position, output)

    def release(self) -> None:
        """Keep no page of a mapped file that was read; nothing to do for states in memory."""
        if self.mapped is not None:
            self.mapped.release()

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
        # These states passed the embeddings, which may be larger than a block.
        decoder.drop_outside()

        def forward(position: int) -> Callable[[], Tensor]:
            return lambda: calls[position].run(block, self.batches[position].to(decoder.device))

        return [forward(position) for position in range(len(self.batches))]


class MappedStates:
    """A nameless file of hidden states that the system pages in and out, and that goes with the process.

    Args:
        folder: on the disk that is to hold it.
        shape: (sequences, tokens, width).
        dtype: of the states.

    Raises:
        OSError: the disk has no room for it.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        size = torch.Size(shape).numel() * dtype.itemsize
        with tempfile.TemporaryFile(dir=folder) as file:
            # Reserved now: a write into a hole of a full disk would kill the process.
            os.posix_fallocate(file.fileno(), 0, size)
            self._map = mmap.mmap(file.fileno(), size)
        self.states = torch.frombuffer(self._map, dtype=dtype).view(shape)

    def release(self) -> None:
        """Count no page of the file as this process's memory; the system still caches what fits."""
        self._map.madvise(mmap.MADV_DONTNEED)
