"""A reader of a tutorial: writes its files, runs its commands and compares what they print with what the page shows."""

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from commands import BIN, Finished

ROOT = Path(__file__).resolve().parents[3]
PAGES = ROOT / "docs" / "tutorials"
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
DECIMAL = re.compile(r"\d+(?:,\d{3})*\.\d+")
CLOSE = 0.25
"""By what share a decimal fraction may differ from the page's: another Python has another manual."""
NEAR = 0.01
"""By how much it may differ in any case: a loss near zero is rounding, which is another one on each processor."""
GIT = {f"GIT_{role}_{what}": "reader@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
"""git knows its user's name."""
SHELL = set("|&;<>()$`*?#~")
"""What makes a command one for the shell; `espalier` with plain arguments needs none."""

Warm = Callable[..., Finished]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: commands (sh), what the commands before it print (text), or a file."""

    page: str
    line: int
    kind: str
    text: str
    path: str = ""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page, in order; AssertionError for one that nobody would execute."""
    source = (PAGES / page).read_text()
    assert len(re.findall(r"^```", source, re.MULTILINE)) % 2 == 0, f"{page}: a fence is not closed"
    for found in FENCE.finditer(source):
        kind, _, path = found["info"].partition(" ")
        block = Block(page, source[: found.start()].count("\n") + 1, kind, found["text"], path)
        assert bool(path) == (kind not in ("sh", "text")), f"{block.place}: neither sh nor text, nor a file with a path"
        yield block


def agrees(shown: str, printed: str) -> bool:
    """Whether a command printed what the page shows.

    Spaces and blank lines do not count. `...` stands for anything in its line, alone in a line for any lines; decimal
    fractions may differ by a quarter or a hundredth, everything else is as shown.
    """
    pattern, expected = "", []
    for line in _lines(shown):
        if line == "...":
            pattern += r"(?:[^\n]*\n)*?"
            continue
        for part in re.split(rf"(\.\.\.|{DECIMAL.pattern})", line):
            if DECIMAL.fullmatch(part):
                expected.append(_number(part))
                pattern += f"({DECIMAL.pattern})"
            else:
                pattern += r"[^\n]*?" if part == "..." else re.escape(part)
        pattern += "\n"
    found = re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(printed)))
    return found is not None and all(
        abs(_number(group) - value) <= max(CLOSE * abs(value), NEAR)
        for group, value in zip(found.groups(), expected, strict=True)
    )


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def follow(folder: Path, environment: dict[str, str], warm: Warm, *pages: str, without: str = "") -> None:
    """Do what the pages say, in `folder`; AssertionError where one of them and the product disagree.

    Args:
        environment: what commands are started with.
        warm: warm(folder, *arguments): a finished espalier command, which costs no imports.
        without: commands that hold this word are left out, with what they would print.
    """
    environment = environment | {"ESPALIER": str(ROOT), "PYTHONPATH": str(ROOT)} | GIT
    environment["PATH"] = os.pathsep.join([str(BIN), environment["PATH"]])
    printed: str | None = None
    left_out = False
    for block in (block for page in pages for block in blocks(page)):
        if block.kind == "text":
            assert printed is not None or left_out, f"{block.place}: no command prints this"
            if not left_out:
                assert agrees(block.text, printed), f"{block.place} shows\n{block.text}\nbut this came:\n{printed}"
            continue
        if block.path:
            file = folder / block.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
            continue
        left_out = bool(without) and without in block.text
        printed = None if left_out else _printed(block, folder, environment, warm)


def _printed(block: Block, folder: Path, environment: dict[str, str], warm: Warm) -> str:
    lines = block.text.replace("\\\n", " ").splitlines()
    if all(line.startswith("espalier ") and not SHELL & set(line) for line in lines):
        ended = [warm(folder, *shlex.split(line)[1:]) for line in lines]
    else:
        command = ["bash", "-euo", "pipefail", "-c", block.text]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        ended = [Finished(done.returncode, done.stdout, done.stderr)]
    for done in ended:
        assert done.code == 0, f"{block.place} ended with {done.code}:\n{block.text}\n{done.out}\n{done.err}"
    return "".join(done.out for done in ended)
