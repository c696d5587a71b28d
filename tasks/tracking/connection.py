"""The workspace's MLflow database: made, opened for one piece of work under one lock, and closed.

Two processes that make the database at the same time would break it, and two that look for the same run would both
create it: hence the lock. Importing mlflow and opening the database take a process about two seconds, once, so mlflow
is imported inside functions only.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from tasks.store.locks import locked
from tasks.tracking.database_faults import explain_faults, require_usable
from tasks.tracking.run_contents import experiment_tags
from tasks.tracking.run_index import EXPERIMENT, database

if TYPE_CHECKING:
    from mlflow import MlflowClient

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
# A connection kept for later would lead to the old file where the database was taken away and made anew.
UNPOOLED = {"MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool"}
LOCK_SECONDS = 30.0
"""How long another process may write until it is said that the database is locked."""


def lock_path(workspace: Path) -> Path:
    """The lock that is held while the database is open."""
    return database(workspace).with_suffix(".lock")


def store_uri(workspace: Path) -> str:
    """The address of the workspace's database, for MLflow."""
    return f"sqlite:///{database(workspace)}"


def artifact_root(workspace: Path) -> str:
    """Where the runs' small files lie, as a URI."""
    return database(workspace).with_name("mlflow-artifacts").as_uri()


def is_made(workspace: Path) -> bool:
    """Whether anything was tracked here; mlflow is not imported. An empty file, as a kill leaves it, is no database."""
    return database(workspace).is_file() and database(workspace).stat().st_size > 0


@contextlib.contextmanager
def connect(workspace: Path) -> Iterator["MlflowClient"]:
    """A client of the workspace's database, which is made where it is missing; MLflow's global settings stay.

    Raises:
        InputError: the database is locked, damaged or cannot be written to.
    """
    for name, value in (QUIET | UNPOOLED).items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Its traceback of what is told in a sentence here.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    file, address = database(workspace), store_uri(workspace)
    with locked(lock_path(workspace)), explain_faults(file, MlflowException, SQLAlchemyError):
        if not is_made(workspace):
            _make(file)
        require_usable(file, LOCK_SECONDS)
        client = MlflowClient(address, address)
        if client.get_experiment_by_name(EXPERIMENT) is None:
            client.create_experiment(EXPERIMENT, artifact_root(workspace), experiment_tags())
        yield client


def prepare(workspace: Path) -> str:
    """Create the database and the experiment where they are missing; returns the experiment's id."""
    with connect(workspace) as client:
        return client.get_experiment_by_name(EXPERIMENT).experiment_id


def run_tags(client: "MlflowClient", run_id: str | None) -> dict[str, str]:
    """The tags of a run, also of one that is deleted; {} where there is no such run."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).data.tags if run_id else {}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}


def _make(file: Path) -> None:
    """Make the database under another name and rename it: one that a kill left half made would stop all later commands.

    The other name is new each time, for MLflow makes the tables of an address only once in a process.
    """
    from mlflow import MlflowClient

    # A journal without its database would be rolled back into the new one.
    for left_by_a_kill in (*file.parent.glob(f"{file.stem}-*.new*"), Path(f"{file}-journal")):
        left_by_a_kill.unlink(missing_ok=True)
    new = file.with_name(f"{file.stem}-{uuid4().hex}.new")
    MlflowClient(f"sqlite:///{new}", f"sqlite:///{new}").search_experiments(max_results=1)
    new.replace(file)
