"""The key `evaluation.samples`: which prompts every model continues."""

from typing import Annotated, Any

import pydantic.dataclasses
from pydantic import Field, model_validator

from pruning_core.errors import InputError
from pruning_core.registry import STRICT, validated

PROMPT_TOKENS = 32


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Samples:
    """Prompts, and how far each is continued."""

    texts: list[str] | None = None
    """The prompts themselves; absent: beginnings of evaluation windows."""
    prompts: Annotated[int, Field(ge=1)] | None = None
    """How many evaluation windows, spread over all of them; absent: 3."""
    prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens of the beginning of a window; absent: 32."""
    new_tokens: Annotated[int, Field(ge=1)] = 48
    """Tokens that are added to a prompt at most."""

    @model_validator(mode="after")
    def _one_kind_of_prompt(self) -> "Samples":
        if self.texts is None:
            return self
        if self.prompts is not None or self.prompt_tokens is not None:
            raise ValueError("texts are taken whole, so prompts and prompt_tokens change nothing; remove them")
        if not self.texts or not all(text.strip() for text in self.texts):
            raise ValueError("texts must be at least one prompt, none of them empty")
        return self

    @property
    def windows(self) -> int:
        """How many evaluation windows give a prompt; 0 where the prompts are given."""
        return 0 if self.texts is not None else self.prompts or 3

    @property
    def beginning(self) -> int:
        """Tokens of a window that are its prompt."""
        return self.prompt_tokens or PROMPT_TOKENS


def build_samples(spec: dict[str, Any], length: int, windows: int | None, where: str = "evaluation.samples") -> Samples:
    """Check the mapping.

    Args:
        length: tokens of an evaluation window.
        windows: how many there are; None: as many as the text has.

    Raises:
        InputError: an unknown key, a value out of range, or more prompts or tokens than the windows have.
    """
    samples = validated(lambda: Samples(**spec), where, sorted(Samples.__dataclass_fields__))
    if samples.texts is None and samples.beginning > length:
        raise InputError(
            f"{where}.prompt_tokens is {samples.beginning}, and evaluation.length gives windows of {length}; lower it"
        )
    if windows is not None and samples.windows > windows:
        raise InputError(
            f"{where}.prompts is {samples.windows}, and evaluation.windows gives {windows} windows; lower it"
        )
    return samples
