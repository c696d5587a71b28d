"""Texts that calibrate and evaluate a model: one file per source, found by name."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pruning_core.registry import Registry


@dataclass(frozen=True)
class Documents:
    """Documents in a fixed order, with the string that joins them into one text.

    Args:
        texts: the documents.
        separator: put between two documents where a protocol wants one running text.
        source: JSON facts on where the text is from (name, versions, counts).
    """

    texts: tuple[str, ...]
    separator: str
    source: Mapping[str, Any]

    @property
    def text(self) -> str:
        """All documents as one running text."""
        return self.separator.join(self.texts)

    @property
    def digest(self) -> str:
        """sha256 hex digest of the running text in UTF-8."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()


class Text(Protocol):
    """A source of documents; its fields are its keys in params.yaml."""

    def read(self, folder: Path = Path()) -> Documents:
        """The documents, the same on every call while the source is unchanged; relative paths start at `folder`."""
        ...


TEXTS: Registry[Text] = Registry("text", __name__)
