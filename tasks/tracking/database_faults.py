"""Faults of MLflow's database, explained in one sentence. No result is lost by it: the store had them before.

The only module that opens the file itself, and only to see that it can be used; its content is read through MLflow.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from pruning_core.errors import InputError

LOCKED = ("SQLITE_BUSY", "SQLITE_LOCKED")
DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR")
TABLES = {"experiments", "runs", "tags", "params", "metrics", "latest_metrics", "registered_models", "model_versions"}
"""Some that MLflow has had for years. It would make a missing one anew, empty and without a word."""
OTHER_VERSION = "out-of-date database schema"
"""What MLflow says then; it gives no code."""
ADVICE = {
    **dict.fromkeys(LOCKED, "is locked by another process: end what holds it"),
    **dict.fromkeys(DAMAGED, "is damaged: put a copy of it back, or move it away and a new one is made"),
    "SQLITE_READONLY": "cannot be written to: make it writable",
    "SQLITE_CANTOPEN": "cannot be opened: make it readable and writable",
    "SQLITE_FULL": "is on a full disk: free some space",
}


def require_usable(database: Path, seconds: float) -> None:
    """Wait until no other process writes, undo what a killed one left unfinished, and see that all tables are there.

    Args:
        seconds: to wait at most.

    Raises:
        InputError: the database is locked for longer, damaged or cannot be opened.
    """
    # Not mode=ro: what a killed writer left unfinished is rolled back before anybody can read.
    address = f"{database.as_uri()}?mode=rw"
    with explain_faults(database), closing(sqlite3.connect(address, uri=True, timeout=seconds)) as connection:
        there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if not there >= TABLES:
            raise sqlite3.DatabaseError(f"no such table: {', '.join(sorted(TABLES - there))}")


@contextlib.contextmanager
def explain_faults(database: Path, *wrappers: type[Exception]) -> Iterator[None]:
    """Turn a fault of the database inside the block into an InputError; what is no such fault passes.

    Args:
        wrappers: exceptions of the libraries that hide the one of SQLite among their causes.
    """
    try:
        yield
    except (sqlite3.Error, *wrappers) as error:
        fault = _of_sqlite(error)
        # Tables are missing where whoever made them was killed; we make all of them or none.
        name = "SQLITE_CORRUPT" if "no such table" in str(fault) else getattr(fault, "sqlite_errorname", "")
        advice = next((text for start, text in ADVICE.items() if name.startswith(start)), None)
        if OTHER_VERSION in str(error):
            advice = f"is of another version of MLflow: copy it, then run `mlflow db upgrade sqlite:///{database}`"
        if advice is None:
            raise
        raise InputError(
            f"MLflow's database {database} {advice}, and run the same command again; finished steps are stored, and "
            "what it lacks is then recorded"
        ) from error


def _of_sqlite(error: BaseException | None) -> sqlite3.Error | None:
    """The exception of SQLite that led to `error`."""
    while error is not None and not isinstance(error, sqlite3.Error):
        error = error.__cause__ or error.__context__
    return error
