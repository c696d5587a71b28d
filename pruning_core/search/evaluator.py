"""A whole model whose matrices are switched from level to level, and how far it then is from the dense one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pruning_core.budget.levels import Genome
from pruning_core.calibration.resumed_forward import ResumedForward
from pruning_core.compress.shares import matrices_of
from pruning_core.model.decoder import Decoder, matrix, set_matrix
from pruning_core.search.level_store import LevelStore
from pruning_core.search.targets import Targets


@dataclass(frozen=True)
class Evaluated:
    """How far candidates are from the dense model on some windows."""

    divergences: list[list[float]] = field(repr=False)
    """[candidate][window]: KL(dense || candidate) summed over the window's predictions, in nats."""
    blocks: int
    """Block forwards that were run, of candidates * depth."""


class Evaluator:
    """Evaluates candidates on one model in memory, of which only what differs is changed and run again.

    The hidden states at every block input of the candidate before are kept, and the next candidate starts at its first
    block that differs. Candidates in sorted order so share the longest prefixes that any order could give them, and no
    result depends on the order: a shared prefix is the same computation.

    Args:
        decoder: whole, with dense weights (`pruning_core.model.whole_model.load_whole`); it is the evaluator's own
            from now.
        store: the levels of all its matrices.
    """

    def __init__(self, decoder: Decoder, store: LevelStore) -> None:
        self._decoder = decoder
        self._store = store
        self._matrices = matrices_of(decoder)
        modules = {name: module for index in range(len(decoder)) for name, module in decoder.linears(index).items()}
        self._modules = [modules[one.name] for one in self._matrices]
        self._dense = [matrix(module).detach() for module in self._modules]
        self._loaded: list[int | None] = [None] * len(self._matrices)
        self._resumed = ResumedForward(decoder)
        self._first, self._entered = 0, [torch.empty(0)] * len(decoder)
        for index, block in enumerate(decoder.blocks):
            block.register_forward_pre_hook(self._keeping(index))

    @torch.no_grad()
    def dense_logits(self, tokens: Tensor) -> Tensor:
        """[rows, length - 1, vocabulary] of the dense model, for token ids [rows, length]."""
        for position in range(len(self._matrices)):
            self._switch(position, None)
        return self._logits(tokens, 0)

    @torch.no_grad()
    def evaluate(self, genomes: Sequence[Genome], windows: Tensor, rows: list[int], targets: Targets) -> Evaluated:
        """How far each candidate is from the dense model on some windows, run in one forward.

        Args:
            genomes: in sorted order to save most.
            windows: [windows, length] int64, all that there are.
            rows: the numbers of those to run.
            targets: what the dense model predicts on all of `windows`.
        """
        tokens, depth = windows[rows], len(self._decoder)
        divergences: list[list[float]] = []
        previous: Genome | None = None
        blocks = 0
        for genome in genomes:
            first = 0 if previous is None else self._first_difference(previous, genome)
            for position, level in enumerate(genome):
                self._switch(position, level)
            divergences.append(targets.divergences(rows, self._logits(tokens, first)))
            blocks += depth - first
            previous = genome
        self._entered = [torch.empty(0)] * depth
        return Evaluated(divergences, blocks)

    def _first_difference(self, one: Genome, other: Genome) -> int:
        """The first block in which two genomes differ; the last one where they do not."""
        blocks = [one.block for one, a, b in zip(self._matrices, one, other, strict=True) if a != b]
        return min(blocks, default=len(self._decoder) - 1)

    def _switch(self, position: int, level: int | None) -> None:
        """Put a matrix at a level, or back to dense where it is None."""
        if self._loaded[position] == level:
            return
        dense = self._dense[position]
        name = self._matrices[position].name
        weight = dense if level is None else self._store.weight(name, level, dense)
        set_matrix(self._modules[position], weight)
        self._loaded[position] = level

    def _logits(self, tokens: Tensor, first: int) -> Tensor:
        self._first = first
        if first == 0:
            logits: Tensor = self._decoder.model(input_ids=tokens.to(self._decoder.device), use_cache=False).logits
        else:
            logits = self._resumed.logits(tokens, first, self._entered[first])
        return logits[:, :-1]

    def _keeping(self, index: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if index >= self._first:
                self._entered[index] = args[0]

        return keep
