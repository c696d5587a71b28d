"""What a model answered to an lm-eval task, item by item, and what follows from it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pruning_core.errors import InputError, required
from pruning_core.evaluation.forward import standard_error
from pruning_core.evaluation.paired import paired_accuracy


@dataclass(frozen=True)
class Item:
    """The answer to one item.

    Args:
        task: name of the lm-eval task.
        id: place among its items, from 0.
        correct: whether the most likely answer is the true one; without choices, whether the model would write it.
        chosen: place of the most likely answer; None where there are no choices.
        log_likelihoods: nats, of each answer.
        correct_norm: the same, per character of the answer; None where the lm-eval task has no such score.
        chosen_norm: place of the answer that is most likely per character.
    """

    task: str
    id: int
    correct: bool
    chosen: int | None
    log_likelihoods: tuple[float, ...]
    correct_norm: bool | None = None
    chosen_norm: int | None = None

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self) | {"log_likelihoods": list(self.log_likelihoods)}

    @classmethod
    def of(cls, facts: dict[str, Any]) -> "Item":
        """The inverse of `facts`."""
        return cls(**facts | {"log_likelihoods": tuple(facts["log_likelihoods"])})


def accuracies(items: Sequence[Item]) -> dict[str, Any]:
    """Accuracy, accuracy per character, their standard errors, and chance, as JSON; None where not defined.

    Chance is the accuracy of one who draws an answer. Without choices also the perplexity of the answers, exp of the
    mean of -log-likelihood, as LAMBADA reports it, with the standard error of that mean in nats.
    """
    facts: dict[str, float | None] = {"items": len(items)}
    for name, answers in _answers(items).items():
        values = torch.tensor(answers or [], dtype=torch.float64)
        facts[name] = float(values.mean()) if answers else None
        facts[f"{name}_error"] = standard_error(values) if answers else None
    guesses = [1 / len(item.log_likelihoods) for item in items if item.chosen is not None]
    facts["chance"] = sum(guesses) / len(guesses) if guesses else None
    losses = torch.tensor([-item.log_likelihoods[0] for item in items if item.chosen is None], dtype=torch.float64)
    facts["perplexity"] = float(losses.mean().exp()) if len(losses) else None
    facts["loss_error"] = standard_error(losses) if len(losses) else None
    return facts


def beside(items: Sequence[Item], other: Sequence[Item]) -> dict[str, Any]:
    """How the accuracies differ from another model's on the same items, as JSON (see `PairedAccuracy`).

    Raises:
        InputError: the items are not the same.
    """
    if [(item.task, item.id) for item in items] != [(item.task, item.id) for item in other]:
        raise InputError("the two evaluations are of different items; evaluate both models with the same tasks")
    theirs = _answers(other)
    return {
        name: paired_accuracy(ours, required(theirs[name], f"the {name} of the other model")).facts() if ours else None
        for name, ours in _answers(items).items()
    }


def _answers(items: Sequence[Item]) -> dict[str, list[bool] | None]:
    normalised = [item.correct_norm for item in items if item.correct_norm is not None]
    return {
        "accuracy": [item.correct for item in items],
        "accuracy_norm": normalised if len(normalised) == len(items) else None,
    }
