"""A pattern reached in rounds: exact counts in each, and a mask that only grows."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from pruning_core.errors import ComputationError, InputError, required
from pruning_core.numerics.selection import rounded_count
from pruning_core.patterns import PATTERNS, Pattern
from pruning_core.patterns.n_of_m import KeepNOfM
from pruning_core.patterns.unstructured import Unstructured

Path = Literal["cubic", "geometric"]


@dataclass(frozen=True)
class Gradual:
    """The way to `pattern` at `sparsity` (None for n_of_m) in `rounds` rounds."""

    pattern: Pattern
    sparsity: float | None
    rounds: int
    path: Path

    def sparsity_after(self, round_: int) -> float:
        """The share removed after round 1 ... `rounds`, where the pattern takes one; as if it did otherwise."""
        if isinstance(self.pattern, KeepNOfM):
            end = 1 - self.pattern.n / self.pattern.m
        else:
            end = required(self.sparsity, "the sparsity of a pattern that takes one")
        if round_ == self.rounds:
            return end
        done = round_ / self.rounds
        return end * (1 - (1 - done) ** 3) if self.path == "cubic" else 1 - (1 - end) ** done

    def grown(self, name: str, score: Tensor, keep: Tensor, round_: int) -> Tensor:
        """[rows, columns] bool: the mask after a round, which keeps nothing that `keep` removes.

        Args:
            name: of the matrix, for messages.
            score: [rows, columns] float, larger = keep.
            keep: the mask before the round.

        Raises:
            InputError: the mask before removes weights that this round's pattern has to keep.
        """
        # Below every score, what is gone is chosen first again, and ties keep their order.
        ordered = score.masked_fill(~keep, -1.0)
        removed = self._removed(ordered, int((~keep).sum()) / keep.numel(), round_)
        if bool((~removed & ~keep).any()):
            raise InputError(
                f"{name}: the model's own zeros do not fit into this pattern and sparsity; begin with the dense model"
            )
        if round_ == self.rounds and (fault := self.pattern.fault(~removed, self.sparsity)):
            raise ComputationError(f"{name}: {fault}")
        return ~removed

    def _removed(self, score: Tensor, before: float, round_: int) -> Tensor:
        share, pattern = self.sparsity_after(round_), self.pattern
        if not isinstance(pattern, KeepNOfM):
            # A model that begins sparser than this round waits for the others.
            sparsity = max(share, before) if round_ < self.rounds else share
            return pattern.removed(score, sparsity, score.shape[1])
        n = pattern.m - rounded_count(pattern.m, share)
        if n == pattern.m:
            return score < 0
        denser = {"name": "n_of_m", "n": max(n, pattern.n), "m": pattern.m, "ragged": pattern.ragged}
        return PATTERNS.build(denser).removed(score, None, score.shape[1])

    def history(self, keep: dict[str, Tensor]) -> list[dict[str, Any]]:
        """What each round aimed at, and what is gone at the end."""
        removed = sum(int((~one).sum()) for one in keep.values())
        planned = [self.sparsity_after(round_) for round_ in range(1, self.rounds + 1)]
        return [{"event": "pruned_in_rounds", "path": self.path, "planned": planned, "removed": removed}]


def gradual_pattern(pattern: Pattern, sparsity: float | None, rounds: int, path: Path) -> Gradual:
    """The way to a pattern.

    Raises:
        ValueError: a pattern whose rounds could not be nested exactly, or a sparsity where none or one belongs.
    """
    if isinstance(pattern, Unstructured):
        exact = pattern.scope in ("row", "matrix") and pattern.rounding == "exact"
    else:
        exact = isinstance(pattern, KeepNOfM) and pattern.ragged == "error"
    if not exact:
        raise ValueError(
            "the pattern must be unstructured with scope row or matrix and rounding exact, or n_of_m with ragged error"
        )
    if pattern.takes_sparsity and sparsity is None:
        raise ValueError("sparsity is missing; give the fraction of weights to remove, in [0, 1)")
    if not pattern.takes_sparsity and sparsity is not None:
        raise ValueError(f"sparsity cannot be set: pattern {pattern.name} fixes it; remove the key")
    return Gradual(pattern, sparsity, rounds, path)
