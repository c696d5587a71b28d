"""The fields of the data sets that lm-eval tasks are made of, as the Hugging Face hub has them.

One class per layout; `BENCHMARKS` says which lm-eval task has which layout, and in which folder of the harness it is
defined. A row that is checked here cannot be misread by the harness, which takes a label of the wrong type for a wrong
answer and goes on.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Words = Annotated[str, Field(min_length=1)]
Binary = Annotated[int, Field(ge=0, le=1)]


class Row(BaseModel):
    """One item of an lm-eval task; other fields are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class BoolQ(Row):
    """A passage and a question whose answer is no (0) or yes (1)."""

    passage: Words
    question: Words
    label: Binary

    @model_validator(mode="before")
    @classmethod
    def _answer_as_label(cls, row: Any) -> Any:
        # The data set's own repository says `answer: true` where SuperGLUE, which the harness reads, says `label: 1`.
        if isinstance(row, dict) and "label" not in row and isinstance(row.get("answer"), bool):
            return row | {"label": int(row["answer"])}
        return row


class Piqa(Row):
    """A goal and two ways to it; the label is 0 or 1."""

    goal: Words
    sol1: Words
    sol2: Words
    label: Binary


class HellaSwag(Row):
    """A scene in two sentences and its possible endings; the label is the place of the true one, as text."""

    activity_label: str
    ctx_a: str
    ctx_b: str
    endings: Annotated[list[Words], Field(min_length=2)]
    label: str

    @model_validator(mode="before")
    @classmethod
    def _number_as_text(cls, row: Any) -> Any:
        if isinstance(row, dict) and type(row.get("label")) is int:
            return row | {"label": str(row["label"])}
        return row

    @model_validator(mode="after")
    def _label_of_an_ending(self) -> "HellaSwag":
        if self.label not in [str(place) for place in range(len(self.endings))]:
            raise ValueError(f"label is {self.label!r}, which is no place of its {len(self.endings)} endings")
        return self


class WinoGrande(Row):
    """A sentence with a gap, `_`, and two words for it; the answer is "1" or "2"."""

    sentence: Annotated[str, Field(pattern="_")]
    option1: Words
    option2: Words
    answer: Literal["1", "2"]


class Choices(BaseModel):
    """Texts of answers with their letters."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")
    text: Annotated[list[Words], Field(min_length=2)]
    label: list[str]


class Exam(Row):
    """A question of an examination; the answer key is one of the letters."""

    choices: Choices
    answerKey: str

    @model_validator(mode="after")
    def _key_of_a_choice(self) -> "Exam":
        if len(self.choices.label) != len(self.choices.text):
            raise ValueError(f"choices has {len(self.choices.text)} texts and {len(self.choices.label)} labels")
        if self.answerKey.strip() not in self.choices.label:
            raise ValueError(f"answerKey is {self.answerKey!r}, which is none of the labels {self.choices.label}")
        return self


class Arc(Exam):
    """AI2 Reasoning Challenge."""

    question: Words


class OpenBookQA(Exam):
    """OpenBookQA."""

    question_stem: Words


class Lambada(Row):
    """A text whose last word is to be guessed."""

    text: Annotated[str, Field(pattern=r"\S \S+$")]


class Continuation(Row):
    """A context and its possible continuations, of which the text has the one at place `label`."""

    context: Words
    choices: Annotated[list[Words], Field(min_length=2)]
    label: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _label_of_a_choice(self) -> "Continuation":
        if self.label >= len(self.choices):
            raise ValueError(f"label is {self.label}, which is no place of its {len(self.choices)} choices")
        return self


@dataclass(frozen=True)
class Benchmark:
    """A published lm-eval task.

    Args:
        folder: of its definition, below `lm_eval/tasks`.
        layout: of its items.
    """

    folder: str
    layout: type[Row]


BENCHMARKS = {
    "boolq": Benchmark("super_glue/boolq", BoolQ),
    "piqa": Benchmark("piqa", Piqa),
    "hellaswag": Benchmark("hellaswag", HellaSwag),
    "winogrande": Benchmark("winogrande", WinoGrande),
    "arc_easy": Benchmark("arc", Arc),
    "arc_challenge": Benchmark("arc", Arc),
    "openbookqa": Benchmark("openbookqa", OpenBookQA),
    "lambada_openai": Benchmark("lambada", Lambada),
    "lambada_standard": Benchmark("lambada", Lambada),
}
"""The lm-eval tasks whose items may be a local file."""
