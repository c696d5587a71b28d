"""The key `evaluation.tasks`: which lm-eval tasks a model is evaluated on."""

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic.dataclasses
from pydantic import Field, model_validator

from pruning_core.errors import InputError
from pruning_core.evaluation.lm_eval.layouts import BENCHMARKS
from pruning_core.registry import STRICT, validated
from pruning_core.text import TEXTS

DOMAIN = "domain"
"""The lm-eval task that is made of the evaluation text."""


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class HarnessTask:
    """An lm-eval task of lm-evaluation-harness."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    data: str | None = None
    """A JSON Lines file of items as the Hugging Face hub has them; absent: downloaded."""
    examples: str | None = None
    """A file of other items that few-shot examples are drawn from; absent: from the items themselves."""
    few_shot: Annotated[int, Field(ge=0)] | None = None
    """Examples before each item; absent: as the harness defines the task."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """The first so many items; absent: all."""

    @model_validator(mode="after")
    def _files_that_are_read(self) -> "HarnessTask":
        if self.data is not None and self.name not in BENCHMARKS:
            raise ValueError(f"data of {self.name!r} cannot be read from a file; {', '.join(BENCHMARKS)} can")
        if self.examples is not None and (self.data is None or not self.few_shot):
            raise ValueError("examples changes nothing without data and few_shot; add them or remove it")
        return self


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class DomainTask:
    """An lm-eval task whose items are made of a text (`pruning_core.evaluation.lm_eval.continuations`).

    A model for that text can answer them.
    """

    name: str = DOMAIN
    items: Annotated[int, Field(ge=1)] = 500
    context: Annotated[int, Field(ge=1)] = 96
    """Tokens before the place in question."""
    continuation: Annotated[int, Field(ge=1)] = 24
    """Tokens of each choice."""
    choices: Annotated[int, Field(ge=2)] = 4
    seed: int = 0
    text: dict[str, Any] | None = None
    """A text source, {name: ...}; that of `evaluation` when absent."""


LmEvalTask = HarnessTask | DomainTask


def build_lm_eval_tasks(spec: Any, where: str = "evaluation.tasks") -> tuple[LmEvalTask, ...]:
    """Check the list of mappings {name: ...}.

    Raises:
        InputError: an unknown or missing key, a value out of range, or a name that is given twice.
    """
    if not isinstance(spec, list):
        raise InputError(f"{where} must be a list of mappings {{name: ...}}, got {spec!r}")
    tasks = tuple(_lm_eval_task(entry, f"{where}[{place}]") for place, entry in enumerate(spec))
    names = [task.name for task in tasks]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{where} has the task {sorted(twice)[0]!r} twice; name each once")
    return tasks


def _lm_eval_task(entry: Any, where: str) -> LmEvalTask:
    if not isinstance(entry, Mapping) or "name" not in entry:
        raise InputError(f"{where} must be a mapping with the key name, such as {{name: {DOMAIN}}}, got {entry!r}")
    cls = DomainTask if entry["name"] == DOMAIN else HarnessTask
    task = validated(lambda: cls(**entry), where, sorted(cls.__dataclass_fields__))
    if isinstance(task, DomainTask) and task.text is not None:
        TEXTS.build(task.text, f"{where}.text")
    return task
