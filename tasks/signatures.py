"""Telling an untouched directory from a touched one without reading its files."""

import contextlib
import json
from pathlib import Path
from typing import Any

from tasks.canonical import file_digest, write_json
from tasks.directories import MANIFEST, signature


class Signatures:
    """Remembers the stat signature of directories that were verified, below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def of(self, name: str) -> dict[str, Any] | None:
        """{"stat": signature, "manifest": sha256 of manifest.json} as recorded, or None."""
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            return json.loads((self.root / f"{name}.json").read_text())
        return None

    def record(self, name: str, directory: Path) -> None:
        """Remember `directory` as it is now; it holds manifest.json and was just verified or written."""
        now = {"stat": signature(directory), "manifest": file_digest(directory / MANIFEST)}
        if now != self.of(name):
            write_json(self.root / f"{name}.json", now)

    def forget(self, name: str) -> None:
        """Know nothing of `name` any more."""
        (self.root / f"{name}.json").unlink(missing_ok=True)

    def untouched(self, name: str, directory: Path) -> bool:
        """Whether `directory` is as it was recorded, by sizes, times and inodes."""
        recorded = self.of(name)
        return recorded is not None and recorded["stat"] == signature(directory)
