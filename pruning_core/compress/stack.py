"""Matrices that read one input, as one matrix with the rows of all of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pruning_core.column_sweep import Choice

LARGEST = 1 << 24
"""Weights in a stack of several matrices; larger matrices keep a machine busy on their own."""


@dataclass(frozen=True)
class Stack:
    """The rows of each matrix, from top to bottom."""

    rows: tuple[int, ...]

    def __call__(self, stacked: Tensor) -> tuple[Tensor, ...]:
        """Views of the parts of a tensor whose first dimension is the stacked rows."""
        return torch.split(stacked, list(self.rows))

    def choice(self, choices: list[Choice]) -> Choice:
        """One choice for all rows out of those of each matrix, which are of one kind: each competes within itself."""
        first = choices[0]
        if len(choices) == 1:
            return first
        if first.fixed is not None:
            return Choice(fixed=torch.cat([choice.fixed for choice in choices if choice.fixed is not None]))
        if first.block is None:
            return first

        by_block = [choice.block for choice in choices if choice.block is not None]

        def block(score: Tensor, start: int) -> Tensor:
            parts = zip(by_block, self(score), strict=True)
            return torch.cat([choose(part, start) for choose, part in parts])

        return Choice(block=block)


def stacks(sizes: dict[str, int]) -> Iterator[list[str]]:
    """Runs of names whose weights, `sizes`, make a stack of at most LARGEST; a larger matrix is a stack of its own."""
    members: list[str] = []
    for name, size in sizes.items():
        if members and sum(sizes[member] for member in members) + size > LARGEST:
            yield members
            members = []
        members.append(name)
    if members:
        yield members
