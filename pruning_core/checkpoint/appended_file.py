"""One file whose parts are appended one at a time, and how such a write goes on after it was killed."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pruning_core.checkpoint.durable_files import flush_one
from pruning_core.errors import ComputationError

SYNCED_BYTES = 2**26
"""Written between two waits for the disk: a wait takes as long for a vector as for a large matrix."""
PIECE = 2**24
"""Bytes that are read at once where parts of an interrupted write are looked at."""


class AppendedFile:
    """A file of a head and then parts in a fixed order, under a provisional name until all of them are written.

    A journal beside it has a line per finished part, with the digest of its bytes. What an interrupted writer left is
    taken up as far as it is whole: where the head is byte for byte the one of now, each part whose bytes have the
    digest of its line, up to the first that has not. The rest is cut off and written again, so that the file is equal
    to that of a writer that was not interrupted. The digests hold whatever a disk that lost power kept of both files.

    Args:
        path: the final name; a file that has it is replaced at the end.
        head: what the file begins with.
        parts: names of all that follow, in order.
        origin: names what the parts are made of; what was left by a writer of another origin is not taken up.
    """

    def __init__(self, path: Path, head: bytes, parts: Sequence[str], origin: str) -> None:
        self.path = path
        self.notes: dict[str, Any] = {}
        """Name -> the caller's note on each part that is there, in order."""
        self._parts = list(parts)
        self._waiting = 0
        self._partial = path.with_name(f".{path.name}.partial")
        self._journal = path.with_name(f".{path.name}.journal")
        if self._journal.is_file() and path.is_file() and not self._partial.is_file():
            # Killed behind the last rename: the journal says that it is of that writer.
            path.replace(self._partial)
        first = _line({"head": hashlib.sha256(head).hexdigest(), "origin": origin})
        if not self._recovered(head, first):
            self.discard()
            _append(self._partial, head)
            _append(self._journal, first)

    def add(self, name: str, content: bytes | memoryview, note: Any = None) -> None:
        """Append the next part.

        Args:
            note: JSON of the caller, which a writer that goes on from here finds again.

        Raises:
            ComputationError: it is not the next one.
        """
        if len(self.notes) == len(self._parts) or name != self._parts[len(self.notes)]:
            raise ComputationError(f"{name!r} is not what comes next in {self.path}")
        _append(self._partial, content)
        digest = hashlib.sha256(content).hexdigest()
        size = memoryview(content).nbytes
        _append(self._journal, _line({"part": name, "bytes": size, "sha256": digest, "told": note}))
        self.notes[name] = note
        self._waiting += size
        if self._waiting >= SYNCED_BYTES:
            self._make_durable()

    def publish(self) -> None:
        """Give the file its name.

        Raises:
            ComputationError: parts are missing.
        """
        if len(self.notes) < len(self._parts):
            raise ComputationError(f"{self._parts[len(self.notes)]!r} was never written to {self.path}")
        # A rename must not reveal what the disk does not have.
        self._make_durable()
        self._partial.replace(self.path)
        self._journal.unlink()

    def discard(self) -> None:
        """Remove what has no final name."""
        self._partial.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)

    def _make_durable(self) -> None:
        """Wait until both files are on the disk, the journal last."""
        for path in (self._partial, self._journal):
            flush_one(path)
        self._waiting = 0

    def _recovered(self, head: bytes, first: bytes) -> bool:
        """Take up the parts that are whole and cut off the rest; False where there is nothing to go on from."""
        if not self._partial.is_file() or not self._journal.is_file():
            return False
        lines = self._journal.read_bytes().splitlines(keepends=True)
        with self._partial.open("r+b") as file:
            if lines[:1] != [first] or file.read(len(head)) != head:
                return False
            size, journal_size = len(head), len(first)
            for name, line in zip(self._parts, lines[1:], strict=False):
                entry = _read(line)
                if entry is None or entry.get("part") != name or _digest(file, entry["bytes"]) != entry["sha256"]:
                    break
                self.notes[name] = entry["told"]
                size, journal_size = size + entry["bytes"], journal_size + len(line)
            file.truncate(size)
        with self._journal.open("r+b") as journal:
            journal.truncate(journal_size)
        return True


def _append(path: Path, content: bytes | memoryview) -> None:
    with path.open("ab") as file:
        file.write(content)


def _line(entry: dict[str, Any]) -> bytes:
    """JSON behind its own digest, by which a torn or altered line is recognised."""
    text = json.dumps(entry).encode()
    return hashlib.sha256(text).hexdigest().encode() + b" " + text + b"\n"


def _read(line: bytes) -> dict[str, Any] | None:
    """The entry of a line that `_line` made; None of any other."""
    digest, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or hashlib.sha256(text).hexdigest().encode() != digest:
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry


def _digest(file: BinaryIO, size: int) -> str:
    """Hex SHA-256 of the next `size` bytes, or of what there is of them."""
    digest = hashlib.sha256()
    while size > 0 and (piece := file.read(min(size, PIECE))):
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()
