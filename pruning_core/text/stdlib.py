"""The running Python's standard library as a text that every machine has."""

import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pruning_core.errors import InputError
from pruning_core.text import TEXTS, Documents

# Tests repeat what they test; the codecs and pydoc topics are generated; packages are not the library.
LEFT_OUT = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings", "pydoc_data", "lib-dynload"}
)
SEPARATOR = "\n\n"


@TEXTS.register("stdlib")
class Stdlib:
    """Sources of the Python standard library, split by file into 90 % train, 5 % validation and 5 % test.

    Left out: tests, installed packages, `encodings`, `pydoc_data`, `config-*`, `_sysconfigdata*` (it depends
    on the machine), files that are not UTF-8, empty files, and tables (see `is_table`). A file's split is a
    function of its relative path alone, so the splits are disjoint and a file keeps its split in other Python
    versions. The text itself depends on the Python version, which `source` names.

    Raises:
        InputError: this Python carries no readable sources of its library.
    """

    split: Literal["train", "validation", "test"] = "train"

    def read(self, folder: Path = Path()) -> Documents:
        """One document per file, sorted by path."""
        root = Path(sysconfig.get_paths()["stdlib"])
        texts = tuple(text for path, text in library(root) if split_of(path) == self.split)
        if not texts:
            raise InputError(
                f"this Python keeps no library sources in {root}; use {{name: file, path: ...}} as the text"
            )
        source = {
            "name": "stdlib",
            "split": self.split,
            "python": platform.python_version(),
            "files": len(texts),
            "bytes": sum(len(text.encode("utf-8")) for text in texts),
        }
        return Documents(texts, SEPARATOR, source)


def library(root: Path) -> Iterator[tuple[str, str]]:
    """(relative POSIX path, text) of every library file under `root` that is kept, sorted by path."""
    paths = {path.relative_to(root).as_posix(): path for path in _sources(root)}
    for name in sorted(paths):
        if not is_kept(name):
            continue
        try:
            text = paths[name].read_bytes().decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError:
            continue
        if text.strip() and not is_table(text):
            yield name, text


def _sources(root: Path) -> Iterator[Path]:
    # Folders are left out before they are entered: site-packages may hold a hundred times the library.
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def is_kept(name: str) -> bool:
    """Whether the relative POSIX path `name` belongs to the library proper."""
    *folders, file = name.split("/")
    if file.startswith("_sysconfigdata") or any(folder.startswith("config-") for folder in folders):
        return False
    return LEFT_OUT.isdisjoint(folders)


def is_table(text: str) -> bool:
    """Whether more than half of the lines begin with a string or a number: data, such as html/entities.py."""
    lines = text.splitlines()
    entries = sum(line.lstrip()[:1] in tuple("'\"0123456789") for line in lines)
    return 2 * entries > len(lines)


def split_of(name: str) -> str:
    """The split of a file: the first 32 bits of sha256(path) as a fraction, cut at 0.90 and 0.95."""
    fraction = int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:4], "big") / 2**32
    if fraction < 0.90:
        return "train"
    return "validation" if fraction < 0.95 else "test"
