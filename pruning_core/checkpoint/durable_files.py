"""Small file operations that survive a crash: digest, flush, replace."""

import hashlib
import os
import threading
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of the file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_one(path: Path) -> None:
    """fsync one file or folder, so that a rename never reveals data that is not on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_bytes(path: Path, content: bytes) -> None:
    """Give `path` this content in one step; on any error the old content stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
