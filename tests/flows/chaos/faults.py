"""What is seen of a run from outside, at any instant: what is published, what is under way, what is left."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import BIN, Finished

from flows.sweep_variants import expand_sweep
from pruning_core.settings.recipe import BASELINE
from tasks.engine.look import Look
from tasks.orchestration.flow_runs import RUNS
from tasks.pipeline.open_pipeline import open_pipeline
from tasks.store.directories import MANIFEST, RUN
from tasks.store.locks import is_locked
from tasks.tracking.run_index import database
from tasks.workspace.workspace import Workspace

SPARSITIES = [0.5]
SWEEP = ("sweep", "--sparsities", ",".join(map(str, SPARSITIES)))
VARIANT_RUNS = """
SELECT name, status FROM runs JOIN tags USING (run_uuid)
WHERE key = 'variant_key' AND lifecycle_stage = 'active' AND status != 'KILLED' ORDER BY name
"""
MEASURED = "measure"
"""Kind of the results that are times, and differ from run to run."""


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to.

    Args:
        root: its workspace.
        seconds: from the command to its end.
        digests: key -> digest of all that it made but times.
        labels: key -> label of every step.
    """

    root: Path
    seconds: float
    digests: dict[str, str]
    labels: dict[str, str]

    @property
    def step_seconds(self) -> float:
        """What its steps took, without imports, MLflow and the report."""
        return sum(seconds_of(self.root, key) for key in self.labels)


@dataclass(frozen=True)
class Published:
    """A stored result as it lies there: another time or inode would be another computation."""

    inode: int
    made_by: str


def published(root: Path) -> dict[str, Published]:
    """Key -> what lies in the store, without asking the store, which would put aside what is altered."""
    results = {}
    for path in (root / ".espalier" / "objects").glob("*"):
        run = json.loads((path / RUN).read_text())
        results[path.name] = Published(path.stat().st_ino, f"{run['pid']} {run['started']} {run['seconds']}")
    return results


def stored(root: Path) -> int:
    """How many results are published."""
    return len(list((root / ".espalier" / "objects").glob("*")))


def manifests(root: Path) -> dict[str, dict[str, Any]]:
    """Key -> manifest of what is stored."""
    return {
        path.parent.name: json.loads(path.read_text()) for path in (root / ".espalier/objects").glob(f"*/{MANIFEST}")
    }


def digests(root: Path) -> dict[str, str]:
    """Key -> digest of what is stored, but times."""
    return {key: manifest["digest"] for key, manifest in manifests(root).items() if manifest["kind"] != MEASURED}


def seconds_of(root: Path, key: str) -> float:
    """What the computation of a stored result took."""
    return json.loads((root / ".espalier" / "objects" / key / RUN).read_text())["seconds"]


def labels(root: Path) -> dict[str, str]:
    """Key -> label of every step of the sweep; its first one where several have a key."""
    workspace, _ = expand_sweep(Workspace.open(root), {"sparsities": SPARSITIES})
    look, by_key = Look(), {}
    pipeline = open_pipeline(workspace, look)
    for name in (BASELINE, *workspace.settings.variants):
        pipeline.quality(name)
        pipeline.speed(name)
    for lookup in look.lookups:
        by_key.setdefault(lookup.call.key, lookup.call.label)
    return by_key


def under_way(root: Path) -> dict[str, float]:
    """Key -> when its computation began, of what a process is, or was when it was killed, computing."""
    owners = (root / ".espalier" / "tmp").glob("*.owner")
    return {path.name.split(".")[0]: path.stat().st_mtime for path in owners}


def shown(done: Finished, word: str) -> list[str]:
    """The labels of the steps that a command reported as `word`."""
    return [line.rpartition(" s  ")[2] for line in done.err.splitlines() if line.startswith(word)]


def sentences(done: Finished) -> list[str]:
    """What a command said that went wrong."""
    return [line for line in done.err.splitlines() if line.startswith("espalier: ")]


def tracked(root: Path) -> list[tuple[str, str]]:
    """(name, status) of every run of a variant in MLflow that is neither deleted nor of a killed process."""
    if not database(root).is_file():
        return []
    with closing(sqlite3.connect(database(root))) as connection:
        table = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone()
        return connection.execute(VARIANT_RUNS).fetchall() if table else []


def left_over(root: Path) -> list[str]:
    """What a run that is over should not leave: builds, checkpoints, locks that are held, runs on record."""
    hidden = root / ".espalier"
    files = [*(hidden / "locks").rglob("*"), hidden / "use.lock"]
    locks = [path for path in files if path.is_file() and is_locked(path)]
    folders = (hidden / "tmp", hidden / "scratch", root / RUNS)
    return [str(path.relative_to(root)) for path in (*locks, *(item for one in folders for item in one.glob("*")))]


def begin(
    root: Path,
    *arguments: str,
    environment: dict[str, str],
    output: Path | None = None,
    before: Callable[[], None] | None = None,
) -> subprocess.Popen:
    """The installed command in a process group of its own.

    Args:
        output: folder for out.txt and err.txt; the workspace where none is given.
        before: called in the new process before the command begins.
    """
    folder = output or root
    with (folder / "out.txt").open("w") as out, (folder / "err.txt").open("w") as err:
        command = [str(BIN / "espalier"), *arguments]
        return subprocess.Popen(
            command, cwd=root, env=environment, stdout=out, stderr=err, start_new_session=True, preexec_fn=before
        )


def finish(process: subprocess.Popen, output: Path, seconds: float = 300) -> Finished:
    """Its end; `output` as in `begin`."""
    code = process.wait(seconds)
    return Finished(code, (output / "out.txt").read_text(), (output / "err.txt").read_text())


def kill(pid: int, group: bool) -> float:
    """SIGKILL to a process, or to its whole group; when that was, in seconds since 1970."""
    now = time.time()
    # A run that was faster than expected is over.
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)
    return now
