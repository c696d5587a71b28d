"""Runs that are killed, stopped, doubled or out of disk: nothing half is left, and the next run goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.machine.process_identity import VARIABLE, Owner
from tasks.orchestration import temporary_servers
from tasks.pipeline.variant import Pipeline
from tasks.store.artifact import Artifact
from tasks.store.store import Store
from tasks.workspace.workspace import Workspace

pytestmark = pytest.mark.slow

VARIANT = "sparsegpt-50"
BLOCKS = 6


@pytest.fixture(scope="module")
def original(make_workspace) -> Path:
    """A model large enough for its blocks to take some tenths of a second each."""
    return make_workspace(hidden_size=128, intermediate_size=384, num_hidden_layers=BLOCKS)


@pytest.fixture(scope="module")
def uninterrupted(original: Path, tmp_path_factory) -> str:
    """The digest that a run from beginning to end gives."""
    return model_of(copy_of(original, tmp_path_factory.mktemp("whole") / "workspace")).digest


@pytest.fixture
def workspace(original: Path, tmp_path: Path) -> Path:
    return copy_of(original, tmp_path / "workspace")


def copy_of(root: Path, destination: Path) -> Path:
    return shutil.copytree(root, destination)


def model_of(root: Path) -> Artifact:
    workspace = Workspace.open(root)
    return Pipeline(workspace.context(), workspace.settings).model(VARIANT)


def assert_nothing_half(root: Path) -> None:
    """Every published folder is an intact artifact."""
    store = Store(root / ".espalier")
    assert len(list(store.artifacts())) == len(list(store.objects.iterdir())) > 0


def lines(text: str, word: str) -> list[str]:
    """The labels of the steps that were reported as `word`."""
    return [line.rpartition(" s  ")[2] for line in text.splitlines() if line.startswith(word)]


def test_a_run_killed_and_stopped_again_and_again_ends_with_the_same_bits(
    start, start_warm, workspace: Path, uninterrupted: str
):
    killed = start(workspace, "espalier", "compress", VARIANT).signal_after(f"{VARIANT} block 0", signal.SIGKILL)
    assert killed.code == -signal.SIGKILL
    assert_nothing_half(workspace)

    again = start_warm(workspace, "compress", VARIANT).signal_after(f"{VARIANT} block 2", signal.SIGKILL)
    assert f"{VARIANT} block 0" in lines(again.err, "cached") and again.code == -signal.SIGKILL
    assert_nothing_half(workspace)

    # Told as found: a block, the model and what judges it are still to come.
    stopped = start_warm(workspace, "compress", VARIANT).signal_after(f"{VARIANT} block 2", signal.SIGINT)
    assert stopped.code == 130 and "Traceback" not in stopped.err
    assert stopped.err.splitlines()[-1].startswith("espalier: stopped; what was done is stored"), stopped
    assert {f"{VARIANT} block {index}" for index in range(3)} <= {*lines(stopped.err, "cached")}
    assert_nothing_half(workspace)

    whole = start_warm(workspace, "compress", VARIANT).wait()
    assert whole.code == 0
    assert {f"{VARIANT} block {index}" for index in range(3)} <= {*lines(whole.err, "cached")}
    assert f"{VARIANT} model" in lines(whole.err, "computed")
    assert model_of(workspace).digest == uninterrupted


def test_two_processes_at_once_compute_each_step_once_and_agree(start_warm, workspace: Path, uninterrupted: str):
    both = [start_warm(workspace, "step", "prune", VARIANT) for _ in range(2)]
    done = [command.wait() for command in both]
    assert [one.code for one in done] == [0, 0]
    completed = Counter(line for one in done for line in one.out.splitlines() if line.startswith("completed"))
    labels = ["calibration tokens", *(f"{VARIANT} block {index}" for index in range(BLOCKS)), f"{VARIANT} model"]
    assert completed == Counter(f"completed {label}" for label in labels)
    assert model_of(workspace).digest == uninterrupted


@pytest.fixture
def small_disk(workspace: Path) -> Iterator[Callable[[str], None]]:
    """.espalier on a file system of its own; the fixture changes its size."""
    hidden = workspace / ".espalier"
    hidden.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", hidden], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not permitted here: {mounted.stderr.decode().strip()}")
    yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", hidden], check=True)
    subprocess.run(["umount", "--lazy", hidden], check=True)


def test_a_full_disk_is_told_in_a_sentence_and_the_run_goes_on_when_there_is_room(
    espalier, start, workspace: Path, uninterrupted: str, small_disk
):
    refused = espalier(workspace, "step", "prune", VARIANT)
    assert refused.code == 2 and "are to be written and" in refused.err and "Traceback" not in refused.err, refused
    assert not list((workspace / ".espalier").glob("objects/*"))

    # Room as planned, until somebody else takes it.
    small_disk("64m")
    running = start(workspace, "espalier", "step", "prune", VARIANT)
    objects = workspace / ".espalier" / "objects"
    deadline = time.monotonic() + 120
    while len(list(objects.glob("*/manifest.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    usage = shutil.disk_usage(objects)
    small_disk(str(usage.used + 100_000))
    full = running.wait()
    assert full.code == 2 and "Traceback" not in full.err, full
    sentence = full.err.splitlines()[-1]
    assert sentence.startswith("espalier: the disk that holds") and str(workspace) in sentence
    assert_nothing_half(workspace)
    assert not list((workspace / ".espalier" / "tmp").iterdir())

    small_disk("64m")
    done = espalier(workspace, "step", "prune", VARIANT)
    assert done.code == 0 and f"cached {VARIANT} block 0" in done.out.splitlines()
    assert model_of(workspace).digest == uninterrupted


def sleeper(owner: str) -> subprocess.Popen:
    """A process that looks like a temporary server of `owner`."""
    command = [sys.executable, "-c", "import time; time.sleep(120)", temporary_servers.SERVER]
    return subprocess.Popen(command, env={**os.environ, VARIABLE: owner})


def test_a_temporary_server_that_outlived_its_run_is_stopped_and_others_are_not():
    own = Owner.here()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    orphan, reused = sleeper(f"{dead.pid} {own.created}"), sleeper(f"{own.pid} {own.created}0")
    living = sleeper(f"{own.pid} {own.created}")
    try:
        assert {orphan.pid, reused.pid} <= {*temporary_servers.stop_orphans()}
        assert orphan.wait(30) == reused.wait(30) == -signal.SIGTERM
        assert living.poll() is None
    finally:
        for process in (orphan, reused, living):
            process.kill()
            process.wait()
