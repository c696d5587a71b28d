"""Directories as values: what they hold, whether they changed, and replacing one without a gap."""

import contextlib
import ctypes
import json
import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pruning_core.checkpoint.durable_files import file_sha256, flush_one
from pruning_core.errors import ComputationError
from tasks.store.canonical_json import write_json

MANIFEST = "manifest.json"
RUN = "run.json"
HASHING_THREADS = 4
AT_FDCWD = -100
RENAME_EXCHANGE = 2

Signature = dict[str, list[int]]
"""Relative path -> [bytes, mtime in ns, inode, ctime in ns]; no ordinary write keeps all four."""


def files(directory: Path) -> list[str]:
    """The relative paths of all files below `directory`, sorted, but manifest.json and run.json at its top.

    Raises:
        ComputationError: it holds a link or a device; the bytes behind those can change without a trace.
    """
    names = []
    for path in sorted(directory.rglob("*")):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ComputationError(f"{path} is not a plain file; an artifact holds plain files only")
        if stat.S_ISREG(mode):
            names.append(path.relative_to(directory).as_posix())
    return [name for name in names if name not in (MANIFEST, RUN)]


def digests(directory: Path) -> dict[str, str]:
    """Relative path -> sha256 of every file that `files` lists."""
    names = files(directory)
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: file_sha256(directory / name), names), strict=True))


def signature(directory: Path) -> Signature:
    """The stat signature of every file that `files` lists, and of manifest.json when there is one."""
    names = files(directory) + [MANIFEST] * (directory / MANIFEST).is_file()
    stats = {}
    for name in names:
        info = (directory / name).stat()
        stats[name] = [info.st_size, info.st_mtime_ns, info.st_ino, info.st_ctime_ns]
    return stats


def flush(directory: Path) -> None:
    """fsync all that is below `directory`, so that a rename never reveals data not yet written."""
    for path in [*directory.rglob("*"), directory]:
        flush_one(path)


def replace_directory(new: Path, destination: Path) -> None:
    """Make `new` the `destination`; what was there is removed afterwards. Both lie in one folder.

    The two are exchanged in one system call where the kernel can: the destination is never missing. Elsewhere
    it is for the instant between two renames, and its old content then lies beside it as .NAME.old.
    """
    if not destination.exists():
        new.rename(destination)
    elif exchange(new, destination):
        shutil.rmtree(new)
    else:
        old = destination.with_name(f".{destination.name}.old")
        destination.rename(old)
        new.rename(destination)
        shutil.rmtree(old)
    flush_one(destination.parent)


def exchange(first: Path, second: Path) -> bool:
    """Swap two paths of one file system atomically; False where the system cannot (then nothing was done)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0


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
        now = {"stat": signature(directory), "manifest": file_sha256(directory / MANIFEST)}
        if now != self.of(name):
            write_json(self.root / f"{name}.json", now)

    def forget(self, name: str) -> None:
        """Know nothing of `name` any more."""
        (self.root / f"{name}.json").unlink(missing_ok=True)

    def is_untouched(self, name: str, directory: Path) -> bool:
        """Whether `directory` is as it was recorded, by sizes, times and inodes."""
        recorded = self.of(name)
        return recorded is not None and recorded["stat"] == signature(directory)
