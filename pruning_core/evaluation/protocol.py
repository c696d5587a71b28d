"""What two numbers must share to be comparable."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Self

from pruning_core.errors import InputError
from pruning_core.text.windows import Windows


@dataclass(frozen=True)
class Protocol:
    """How a perplexity or divergence was measured; equal digests mean comparable numbers.

    Args:
        text: hex digest of the text.
        tokens: hex digest of the token windows, so another tokenizer is another protocol.
        length: tokens per window.
        windows: number of windows.
        special_tokens: whether the tokenizer added its special tokens, once at the start of the text.
        dtype: what the model computed in.
    """

    text: str
    tokens: str
    length: int
    windows: int
    special_tokens: bool
    dtype: str = "float32"

    @classmethod
    def of(cls, windows: Windows, dtype: str = "float32") -> Self:
        """The protocol of an evaluation on these windows."""
        count, length = windows.tokens.shape
        facts = windows.facts
        return cls(facts["text_digest"], facts["token_digest"], length, count, facts["special_tokens"], dtype)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of all fields."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)

    def require_same(self, other: Self) -> None:
        """Refuse to compare numbers of different protocols; InputError names what differs."""
        mine, theirs = self.facts(), other.facts()
        different = [f"{key} {mine[key]!r} and {theirs[key]!r}" for key in mine if mine[key] != theirs[key]]
        if different:
            raise InputError(f"the two evaluations cannot be compared ({', '.join(different)}); evaluate both alike")
