"""The way of one weight from the command line to its zero is short, and docs/architecture.md tells it."""

import re
import sys
import traceback
from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest
from source_tree import PACKAGES, ROOT

from flows import cli
from pruning_core.column_sweep import numba_kernel

MOST_CALLS, MOST_ENTRIES = 25, 2


class Arrived(BaseException):
    """The kernel is called; nothing on the way may stop it."""


def walk_of(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(file, function) of ours on the stack when the kernel is called for the first time."""
    stack: list[tuple[str, str]] = []

    def arrive(*_, **__) -> None:
        for frame in traceback.extract_stack():
            file = Path(frame.filename)
            if file.is_relative_to(ROOT) and file.relative_to(ROOT).parts[0] in PACKAGES:
                stack.append((file.relative_to(ROOT).as_posix(), frame.name))
        raise Arrived

    monkeypatch.chdir(root)
    monkeypatch.setattr(numba_kernel, "fix_columns", arrive)
    monkeypatch.setattr(sys, "argv", ["espalier", "step", "prune", "sparsegpt-50"])
    with pytest.raises(Arrived):
        cli.main()
    return stack


def test_a_weight_takes_the_way_that_the_page_tells(make_workspace, monkeypatch: pytest.MonkeyPatch):
    walk = walk_of(make_workspace(), monkeypatch)
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## The walk of one weight")[2]
    lines = re.findall(r"^\d+\. `([\w/.]+)`: (.*)$", page.partition("\n## ")[0], re.MULTILINE)
    assert [(file, name) for file, names in lines for name in re.findall(r"`(\w+)`", names)] == walk
    entries = Counter(file for file, _ in groupby(walk, key=lambda call: call[0]))
    assert len(walk) <= MOST_CALLS and max(entries.values()) <= MOST_ENTRIES
    assert f"calls {len(walk)} functions of ours in {len(entries)} files" in page
