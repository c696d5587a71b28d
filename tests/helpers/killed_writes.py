"""Exports of a single weights file, killed while they write."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pruning_core.checkpoint import appended_file
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.progress import ignore_progress

ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import json, os, signal, sys
from pathlib import Path
from pruning_core.checkpoint import appended_file
from pruning_core.export import FORMATS
from pruning_core.progress import ignore_progress
from pruning_core.checkpoint.stored_model import StoredModel

source, out, spec, writes, torn = Path(sys.argv[1]), Path(sys.argv[2]), *map(json.loads, sys.argv[3:])
append = appended_file._append

def dying(path, content):
    global writes
    writes -= 1
    if writes < 0:
        append(path, content[: len(content) // 2] if torn else b"")
        os.kill(os.getpid(), signal.SIGKILL)
    append(path, content)

appended_file._append = dying
FORMATS.build(spec).write(StoredModel(source), out, ignore_progress)
"""


class Killed(BaseException):
    """Nothing runs behind it."""


def behind(tensors: int) -> int:
    """Writes that came before the next tensor's: head and first line of the journal; of every tensor its bytes and its
    line."""
    return 2 + 2 * tensors


def killed(source: Path, out: Path, spec: dict[str, Any], tensors: int, torn: bool) -> None:
    """Leave what an export leaves that is killed when it writes the next tensor, or half of it, behind so many."""
    out.mkdir(exist_ok=True)
    arguments = [json.dumps(value) for value in (spec, behind(tensors), torn)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = [sys.executable, "-c", KILLED, source, out, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=240, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def interrupted(form: Any, model: StoredModel, out: Path, writes: int) -> None:
    """As `killed`, in a moment, with half of the write that comes behind so many."""
    append, left = appended_file._append, [writes]

    def dying(path: Path, content: bytes) -> None:
        left[0] -= 1
        append(path, content if left[0] >= 0 else content[: len(content) // 2])
        if left[0] < 0:
            raise Killed

    out.mkdir()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(appended_file, "_append", dying)
        form.write(model, out, ignore_progress)
