"""What is wrong with MLflow's database, in a sentence. No result is lost by it: the store had them before."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from pruning_core.errors import InputError

LOCKED = ("SQLITE_BUSY", "SQLITE_LOCKED")
DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR")
ADVICE = {
    **dict.fromkeys(LOCKED, "is locked by another process: end what holds it"),
    **dict.fromkeys(DAMAGED, "is damaged: put a copy of it back, or move it away and a new one is made"),
    "SQLITE_READONLY": "cannot be written to: make it writable",
    "SQLITE_CANTOPEN": "cannot be opened: make it readable and writable",
    "SQLITE_FULL": "is on a full disk: free some space",
}


@contextlib.contextmanager
def explained(database: Path, *wrappers: type[Exception]) -> Iterator[None]:
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
