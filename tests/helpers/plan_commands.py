"""`espalier plan` as a command."""

import sys

import pytest

from flows.cli import main


def command(*arguments: str, monkeypatch) -> int:
    monkeypatch.setattr(sys, "argv", ["espalier", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code
