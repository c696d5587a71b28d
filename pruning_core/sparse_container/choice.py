"""Choice of a tensor's encoding."""

from typing import Literal

from pruning_core.sparse_container.bitmask import Bitmask
from pruning_core.sparse_container.codes import Codes
from pruning_core.sparse_container.csr import Csr
from pruning_core.sparse_container.dense import Dense
from pruning_core.sparse_container.entry import Entry, Matrix
from pruning_core.sparse_container.n_of_m import GROUPS, NOfM

Encoding = Literal["auto", "dense", "bitmask", "n_of_m", "csr", "codes"]
Pattern = tuple[int, int]
"""(N, M)."""


def candidates(matrix: Matrix, encoding: Encoding = "auto", pattern: Pattern | None = None) -> list[Entry]:
    """All that can hold the tensor without loss; of equal cost the one comes first that is the simplest to read.

    Args:
        encoding: this one only; auto: all.
        pattern: the N:M to take instead of those that the zeros suggest.
    """
    entries: list[Entry | None] = []
    if encoding in ("auto", "dense"):
        entries.append(Dense.of(matrix))
    if encoding in ("auto", "n_of_m"):
        sizes = [(pattern[1], pattern[0])] if pattern else [(m, None) for m in GROUPS]
        entries += [NOfM.of(matrix, m, n) for m, n in sizes]
    if encoding in ("auto", "bitmask"):
        entries.append(Bitmask.of(matrix))
    if encoding in ("auto", "csr"):
        entries.append(Csr.of(matrix))
    if encoding in ("auto", "codes"):
        entries.append(Codes.of(matrix))
    return [entry for entry in entries if entry is not None]


def smallest(entries: list[Entry]) -> Entry:
    """The candidate that takes the fewest bytes."""
    return min(entries, key=lambda entry: entry.cost)
