"""What models wrote after the prompts, as a record holds it, with its types checked."""

from typing import Any

from pydantic import Field

from tasks.model_facts import Facts


class Prompt(Facts):
    """The text before; `window` of the evaluation text and how it `follows` there, None of a prompt that was given."""

    window: int | None = None
    text: str
    follows: str | None = None


class Continuation(Facts):
    """What a model wrote: of its tokens the first `shared` are the dense model's, the next one is not.

    `text` in three parts: of the shared tokens, of the first other one ("" where there is none), of the rest.
    """

    tokens: list[int]
    shared: int
    text: tuple[str, str, str] = Field(strict=False)


class Written(Facts):
    """All continuations of a model; `agreement`: the share of the dense model's tokens before the first difference."""

    digest: str
    prompts: list[Prompt]
    continuations: list[Continuation]
    agreement: float
    protocol: dict[str, Any]
