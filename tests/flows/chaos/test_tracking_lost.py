"""MLflow's database locked, absent, read-only or cut short: no result is lost, and the next command records it."""

import contextlib
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from faults import SWEEP, Undisturbed, digests, sentences, tracked

from tasks.tracking.run_index import database

SHORT, LONG = 5.0, 75.0
"""Seconds of a lock: less and more than MLflow and we wait."""


@pytest.fixture
def recorded(undisturbed: Undisturbed, tmp_path: Path) -> Path:
    """A finished sweep with MLflow's database; what it lacks it lacks from here on."""
    return shutil.copytree(undisturbed.root, tmp_path / "workspace")


def forget_a_variant(file: Path) -> None:
    """Take one variant's run out of the database, so that the next command has something to write."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE runs SET lifecycle_stage = 'deleted' WHERE name = 'wanda-50'")
        connection.commit()


@contextlib.contextmanager
def held(file: Path, seconds: float) -> Iterator[None]:
    """For so long another connection has the database for itself."""
    over, taken = threading.Event(), threading.Event()

    def hold() -> None:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            taken.set()
            over.wait(seconds)

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    try:
        yield
    finally:
        over.set()
        holder.join()


@contextlib.contextmanager
def read_only(file: Path) -> Iterator[None]:
    """Inside the block nobody, root included, can write to the file."""
    for command in (["mount", "--bind", file, file], ["mount", "-o", "remount,ro,bind", file]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"making a file read-only takes the right to mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", file], check=True)


@contextlib.contextmanager
def cut_short(file: Path) -> Iterator[None]:
    """Half of the file is lost; afterwards it is moved away, as the sentence advises."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    yield
    file.rename(file.with_suffix(".damaged"))


@contextlib.contextmanager
def absent(file: Path) -> Iterator[None]:
    """The file is gone."""
    file.unlink()
    yield


FAULTS = {
    "locked-briefly": (partial(held, seconds=SHORT), None),
    "locked": (partial(held, seconds=LONG), "is locked by another process"),
    "read-only": (read_only, "cannot be written to"),
    "damaged": (cut_short, "is damaged"),
    "absent": (absent, None),
}
"""Fault -> what makes it, and the words that tell it; None where the command gets by without."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_database_that_cannot_be_used_loses_no_result(
    fault: str, recorded: Path, undisturbed: Undisturbed, start_warm, figures
):
    makes, words = FAULTS[fault]
    everything, file = tracked(undisturbed.root), database(recorded)
    forget_a_variant(file)
    with makes(file):
        begun = time.monotonic()
        done = start_warm(recorded, *SWEEP).wait()
        took = time.monotonic() - begun
    if words is None:
        assert done.code == 0 and tracked(recorded) == everything, done.err
    else:
        assert done.code in (1, 2) and "Traceback" not in done.err, done
        assert words in done.err + done.out and len(sentences(done)) == 1, done
    _goes_on(start_warm, recorded, everything)
    assert digests(recorded) == undisturbed.digests
    end = "all recorded" if words is None else "one sentence, all recorded by the next command"
    figures(f"mlflow-{fault}", f"{end}; 0 results lost ({took:.0f} s)", seconds=round(took, 1))


def test_a_database_that_is_taken_away_in_the_middle_of_a_sweep_is_made_anew(
    shipped, undisturbed: Undisturbed, start_warm, figures
):
    root = shipped()
    command = start_warm(root, *SWEEP)
    deadline = time.monotonic() + 120
    while not any(status == "FINISHED" for _, status in tracked(root)) and time.monotonic() < deadline:
        time.sleep(0.05)
    before = len(tracked(root))
    database(root).unlink()
    done = command.wait()
    assert done.code == 0, done.err
    recorded = len(tracked(root))
    _goes_on(start_warm, root, tracked(undisturbed.root))
    assert digests(root) == undisturbed.digests
    figures(
        "mlflow-gone",
        f"the database removed after {before} runs: the sweep ended with the other {recorded}, the next command "
        f"recorded the rest; 0 results lost",
        before=before,
        after=recorded,
    )


def _goes_on(start_warm, root: Path, everything: list[tuple[str, str]]) -> None:
    """The next command computes nothing and records what is missing."""
    done = start_warm(root, *SWEEP).wait()
    assert done.code == 0 and "computed" not in done.err, done.err
    assert tracked(root) == everything
