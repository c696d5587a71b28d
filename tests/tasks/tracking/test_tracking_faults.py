"""A database that is locked, damaged or gone: one sentence, and what it lacks is recorded as soon as it can be."""

import contextlib
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest
from records import make_record

from flows import launch
from pruning_core.errors import InputError
from tasks.records.variant import parse
from tasks.tracking import connection, run_index
from tasks.tracking.runs import find_runs, track_variant

# Pages that do not fit the cache are written before the transaction ends: that is what a kill leaves to roll back.
KILLED_WRITING = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN")
for number in range(300):
    connection.execute("INSERT INTO registered_models (name, description) VALUES (?, ?)", [str(number), "x" * 4000])
os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_MAKING = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine
from tasks.tracking import connection

@event.listens_for(Engine, "after_cursor_execute")
def kill(open_connection, cursor, statement, *rest):
    if "latest_metrics" in statement and statement.lstrip().upper().startswith("CREATE"):
        open_connection.exec_driver_sql("INSERT INTO experiments (name) VALUES ('half')")
        os.kill(os.getpid(), signal.SIGKILL)

connection.prepare(Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The database of a workspace in which the dense model is tracked; making one takes seconds."""
    workspace = tmp_path_factory.mktemp("workspace")
    track(workspace, "dense")
    return run_index.database(workspace)


@pytest.fixture
def database(made: Path, tmp_path: Path) -> Path:
    """A copy of it in a workspace of its own."""
    own = run_index.database(tmp_path)
    own.parent.mkdir()
    return Path(shutil.copy(made, own))


def track(workspace: Path, name: str) -> None:
    track_variant(workspace, parse(make_record(workspace / ".espalier", name)), [])


def names(workspace: Path) -> list[str]:
    return [run["name"] for run in find_runs(workspace)]


def test_a_locked_database_is_told_and_what_it_lacks_is_recorded_later(tmp_path: Path, database: Path, monkeypatch):
    monkeypatch.setattr(connection, "LOCK_SECONDS", 0.2)
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
    for ask in (lambda: launch.reconcile(tmp_path), lambda: track(tmp_path, "dense")):
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


@pytest.mark.parametrize("moment", ["while it is made", "while a run is written"])
def test_a_kill_while_the_database_is_written_stops_no_later_command(tmp_path: Path, made: Path, start, moment: str):
    own = run_index.database(tmp_path)
    own.parent.mkdir()
    if moment == "while a run is written":
        shutil.copy(made, own)
        killed = start(KILLED_WRITING, own)
    else:
        killed = start(KILLED_MAKING, tmp_path)
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert list(own.parent.glob("mlflow*-journal")), "the kill was to come in the middle of a transaction"
    assert launch.reconcile(tmp_path) == []
    track(tmp_path, "wanda-50")
    assert names(tmp_path)[0] == "wanda-50" and len(names(tmp_path)) == (2 if "run" in moment else 1)
    assert not list(own.parent.glob("mlflow*-journal")) and not list(own.parent.glob("mlflow*.new"))


def test_a_database_that_another_program_left_half_made_is_told(tmp_path: Path, database: Path):
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP TABLE latest_metrics")
    with pytest.raises(InputError, match=r"mlflow\.db is damaged: .* move it away and a new one is made"):
        launch.reconcile(tmp_path)


def test_a_database_of_another_version_of_mlflow_is_told(tmp_path: Path, database: Path):
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of another version'")
        connection.commit()
    with pytest.raises(
        InputError, match=rf"is of another version of MLflow: .* `mlflow db upgrade sqlite:///{database}`"
    ):
        launch.reconcile(tmp_path)


def test_the_run_recorded_last_is_the_first_also_after_the_clock_went_back(tmp_path: Path, database: Path, monkeypatch):
    now = find_runs(tmp_path)[0]["start_time"] / 1000
    monkeypatch.setattr("tasks.tracking.runs.time.time", lambda: now - 24 * 60 * 60)
    track(tmp_path, "wanda-50")
    later, earlier = find_runs(tmp_path)
    assert (later["name"], earlier["name"]) == ("wanda-50", "dense")
    assert later["start_time"] < earlier["start_time"]
