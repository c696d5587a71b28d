"""Iterative magnitude pruning: remove a little, fine-tune, remove a little more."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pruning_core.errors import InputError
from pruning_core.model.decoder import matrix
from pruning_core.patterns import PATTERNS, Pattern
from pruning_core.recovery import RECOVERIES
from pruning_core.recovery.training.gradual_schedule import Gradual, gradual_pattern
from pruning_core.recovery.training.input_norms import input_norms
from pruning_core.recovery.training.language_objective import LanguageObjective
from pruning_core.recovery.training.loop import train
from pruning_core.recovery.training.parametrizations import own_layout
from pruning_core.recovery.training.settings import LanguageTraining, Training
from pruning_core.recovery.training.setup import checkpoints_of, freeze, trainable
from pruning_core.recovery.training.trainable_model import Recovered, TrainableModel, check_masks, require_zeros


@RECOVERIES.register("iterative_magnitude")
class IterativeMagnitude(LanguageTraining):
    """Pruning in rounds, each followed by an equal part of the steps (arXiv:1506.02626); masks only ever grow.

    One optimizer runs through all rounds; the learning rate warms up and falls anew in each.

    rounds: how many.
    path: share removed after round t of n. `cubic` is S (1 - (1 - t/n)^3) (arXiv:1710.01878), `geometric`
        1 - (1 - S)^(t/n), which takes the same part of the survivors every round.
    score: |W|, or `wanda`, |W| times the norm of the input over `scored` training windows, measured anew every round.
    pattern: unstructured of scope row or matrix with a sparsity, or n_of_m.
    trained: the prunable matrices alone, or everything.
    """

    pattern: dict[str, Any] = Field(default_factory=lambda: {"name": "unstructured", "scope": "matrix"})
    sparsity: Annotated[float, Field(ge=0, lt=1)] | None = None
    rounds: Annotated[int, Field(ge=1)] = 8
    path: Literal["cubic", "geometric"] = "cubic"
    score: Literal["magnitude", "wanda"] = "magnitude"
    scored: Annotated[int, Field(ge=1)] | None = None
    trained: Literal["all", "matrices"] = "all"

    @model_validator(mode="after")
    def _consistent(self) -> "IterativeMagnitude":
        self.gradual()
        if self.keep == "best":
            raise ValueError("keep best would bring removed weights back: the best point is an early, denser one")
        if self.scored is not None and self.score != "wanda":
            raise ValueError("scored changes nothing for magnitude scores; remove it")
        return self

    def gradual(self) -> Gradual:
        """The path from dense to the pattern."""
        pattern: Pattern = PATTERNS.build(self.pattern, "pattern")
        return gradual_pattern(pattern, self.sparsity, self.rounds, self.path)

    def recover(self, model: TrainableModel) -> Recovered:
        """See `Recovery`; InputError for a matrix that cannot have the pattern, or masks that cannot grow into it."""
        check_masks(model)
        with self.objective(model) as objective:
            curve = train(objective, self, checkpoints_of(model, self, model.checkpoints), model.progress)
        require_zeros(model, objective.keep)
        history = self.gradual().history(objective.keep)
        return Recovered(list(objective.parameters), objective.keep, {"model": curve}, history)

    @contextmanager
    def objective(self, model: TrainableModel) -> Iterator["_Rounds"]:
        """What is trained, and what for; the model is ready to be trained inside the block.

        Raises:
            InputError: a matrix that cannot have the pattern.
        """
        modules = model.matrices()
        gradual = self.gradual()
        for module in modules.values():
            gradual.pattern.check(matrix(module).shape[1])
        parameters = trainable(model, None if self.trained == "all" else modules)
        yield _Rounds(model, self, parameters, modules, gradual)
        freeze(parameters)


class _Rounds(LanguageObjective):
    """The language objective with a mask that grows at the first step of every round."""

    def __init__(
        self,
        model: TrainableModel,
        settings: IterativeMagnitude,
        parameters: dict[str, nn.Parameter],
        modules: dict[str, nn.Module],
        gradual: Gradual,
    ) -> None:
        super().__init__(model, settings, parameters)
        self.settings, self.modules, self.gradual = settings, modules, gradual
        self.total = settings.total(self.windows)
        shortest = self.total // gradual.rounds
        if shortest <= settings.warmup_steps(shortest):
            raise InputError(
                f"{gradual.rounds} rounds of {shortest} steps leave none after the warm-up; train for longer, "
                "or lower rounds or warmup"
            )
        self._set(self._begin(model))

    def _begin(self, model: TrainableModel) -> dict[str, Tensor]:
        absent = {name: matrix(module) for name, module in self.modules.items() if name not in model.masks}
        dense = {name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in absent.items()}
        return dense | model.masks

    def starts(self, round_: int) -> int:
        """The first step of a round, counted from 0."""
        return round_ * self.total // self.gradual.rounds

    def _round(self, step: int) -> int:
        return max(one for one in range(self.gradual.rounds) if self.starts(one) <= step)

    def change_masks(self, step: int) -> bool:
        """At the first step of a round remove what the round removes."""
        current = self._round(step)
        if step != self.starts(current):
            return False
        with torch.no_grad():
            norms = self._norms()
            scores = {name: matrix(module).abs() * norms[name] for name, module in self.modules.items()}
            grown = {
                name: self.gradual.grown(name, scores[name].cpu(), self.keep[name], current + 1) for name in self.keep
            }
        self._set(grown)
        return True

    def rate(self, settings: Training, step: int, total: int) -> float:
        """A rise and a fall in every round."""
        current = self._round(step)
        first, after = self.starts(current), self.starts(current + 1)
        return settings.rate(step - first, after - first)

    def tensors(self) -> dict[str, Tensor]:
        """The masks so far."""
        return dict(self.keep)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self._set(tensors)

    def _set(self, keep: dict[str, Tensor]) -> None:
        self.keep = keep
        self.masks = {f"{name}.weight": own_layout(self.modules[name], one) for name, one in keep.items()}

    def _norms(self) -> dict[str, Tensor]:
        if self.settings.score == "magnitude":
            return {name: torch.ones((), device=self.device) for name in self.modules}
        seen = self.tokens[: self.settings.scored or 32]
        return input_norms(self.model, self.modules, seen.split(self.micro_batch), self.device)
