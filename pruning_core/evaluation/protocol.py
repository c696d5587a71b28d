"""Evaluation protocols: what two numbers must share to be comparable."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from pruning_core.errors import InputError
from pruning_core.text.tokenized.windows import Windows


@dataclass(frozen=True)
class Agreement:
    """Fields that two evaluations have to share; equal digests mean comparable numbers."""

    @property
    def digest(self) -> str:
        """Hex SHA-256 of all fields."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)

    def require_same(self, other: Self) -> None:
        """Refuse to compare numbers of different protocols; InputError names what differs."""
        mine, theirs = dict(_leaves(self.facts())), dict(_leaves(other.facts()))
        keys = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
        if keys:
            different = ", ".join(f"{key} {mine.get(key)!r} and {theirs.get(key)!r}" for key in keys)
            raise InputError(f"the two evaluations cannot be compared ({different}); evaluate both alike")


@dataclass(frozen=True)
class Protocol(Agreement):
    """How a perplexity or divergence was measured.

    Args:
        text: hex digest of the text.
        tokens: hex digest of the token windows, so another tokenizer is another protocol.
        length: tokens per window.
        windows: number of windows.
        special_tokens: whether the tokenizer added its special tokens, once at the start of the text.
        dtype: what the model computed in.
        stride: tokens from one window to the next; None: they do not overlap.
        bos: whether each window starts with BOS.
    """

    text: str
    tokens: str
    length: int
    windows: int
    special_tokens: bool
    dtype: str = "float32"
    stride: int | None = None
    bos: bool = False

    @classmethod
    def of(cls, windows: Windows, dtype: str = "float32") -> Self:
        """The protocol of an evaluation on these windows."""
        count, length = windows.tokens.shape
        facts = windows.facts
        return cls(
            facts["text_digest"],
            facts["token_digest"],
            length,
            count,
            facts["special_tokens"],
            dtype,
            facts["stride"],
            facts["bos"],
        )


@dataclass(frozen=True)
class TaskProtocol(Agreement):
    """How accuracies on lm-eval tasks were measured.

    Args:
        tasks: per lm-eval task its version, few_shot, limit (None: all items), items, and hex digests: of the data it
            was given, and of the prompts with their answers as the model was given them.
        lm_eval: version of the harness.
        length: tokens the model takes at once; what is longer loses its beginning.
        dtype: what the model computed in.
    """

    tasks: dict[str, dict[str, Any]]
    lm_eval: str
    length: int
    dtype: str = "float32"


def _leaves(facts: dict[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of all that is no mapping."""
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value
