"""A database that is locked, damaged or gone: one sentence, and what it lacks is recorded as soon as it can be."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest
from records import make_record

from pruning_core.errors import InputError
from tasks import abandoned, tracking_index
from tasks.tracking import find_runs, track_variant


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The database of a workspace in which the dense model is tracked; making one takes seconds."""
    workspace = tmp_path_factory.mktemp("workspace")
    track(workspace, "dense")
    return tracking_index.database(workspace)


@pytest.fixture
def database(made: Path, tmp_path: Path) -> Path:
    """A copy of it in a workspace of its own."""
    own = tracking_index.database(tmp_path)
    own.parent.mkdir()
    return Path(shutil.copy(made, own))


def track(workspace: Path, name: str) -> None:
    track_variant(workspace, make_record(workspace / ".espalier", name), [])


def names(workspace: Path) -> list[str]:
    return [run["name"] for run in find_runs(workspace)]


def test_a_locked_database_is_told_and_what_it_lacks_is_recorded_later(tmp_path: Path, database: Path, monkeypatch):
    monkeypatch.setattr(tracking_index, "LOCK_SECONDS", 0.2)
    with contextlib.closing(sqlite3.connect(database)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match=r"mlflow\.db is locked by another process: .* run the same command again"):
            track(tmp_path, "wanda-50")
    track(tmp_path, "wanda-50")
    assert names(tmp_path) == ["wanda-50", "dense"]


@pytest.mark.parametrize("damage", ["cut short", "overwritten"])
def test_a_damaged_database_is_told_before_anything_runs_and_a_new_one_is_made(
    tmp_path: Path, database: Path, damage: str
):
    content = database.read_bytes()
    database.write_bytes(content[: len(content) // 2] if damage == "cut short" else b"\0" * len(content))
    for ask in (lambda: abandoned.reconcile(tmp_path), lambda: track(tmp_path, "dense")):
        with pytest.raises(InputError, match=r"mlflow\.db is damaged: .* move it away and a new one is made"):
            ask()
    database.rename(database.with_suffix(".damaged"))
    track(tmp_path, "dense")
    assert names(tmp_path) == ["dense"]


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_a_database_that_went_while_the_process_lives_is_made_anew(tmp_path: Path, database: Path, left: str):
    database.unlink()
    if left == "an empty file":
        database.touch()
    track(tmp_path, "wanda-50")
    assert names(tmp_path) == ["wanda-50"]


def test_the_run_recorded_last_is_the_first_also_after_the_clock_went_back(tmp_path: Path, database: Path, monkeypatch):
    now = tracking_index.read_runs(tmp_path)[0]["start_time"] / 1000
    monkeypatch.setattr("tasks.tracking.time.time", lambda: now - 24 * 60 * 60)
    track(tmp_path, "wanda-50")
    later, earlier = find_runs(tmp_path)
    assert (later["name"], earlier["name"]) == ("wanda-50", "dense")
    assert later["start_time"] < earlier["start_time"]
