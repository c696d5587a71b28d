"""Reading the runs straight from MLflow's SQLite file, in milliseconds.

Importing mlflow takes about three seconds; a second run of a flow, `lineage` and `compare` only need to know
which runs are there. Nothing is written here: writing is MLflow's (`tasks.tracking.runs`).
"""

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from tasks.store.locks import locked
from tasks.tracking.database_faults import explained

EXPERIMENT = "espalier"
FINISHED = "FINISHED"
VIEW = "compare"
LOCK_SECONDS = 30.0
"""How long a reader waits while another process writes."""

Run = dict[str, Any]

_RUNS = """
SELECT r.run_uuid AS run_id, r.name, r.status, r.start_time, r.artifact_uri, r.experiment_id
FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id
WHERE e.name = ? AND r.lifecycle_stage = 'active'
ORDER BY r.rowid DESC
"""

_VERSIONS = """
SELECT name, version, source, run_id FROM model_versions
WHERE current_stage IS NULL OR current_stage != 'Deleted_Internal' ORDER BY name, version
"""


def database(workspace: Path) -> Path:
    """Where the workspace keeps its runs."""
    return Path(workspace).absolute() / ".espalier" / "mlflow.db"


def lock_path(workspace: Path) -> Path:
    """The lock to hold while reading or writing: two processes that make the database at once break it."""
    return Path(workspace).absolute() / ".espalier" / "mlflow.lock"


def is_made(workspace: Path) -> bool:
    """Whether there is a database with tables; to be called with the lock held."""
    with _connection(workspace) as connection:
        return connection is not None


def experiment_id(workspace: Path) -> str | None:
    """The experiment's id, None before anything was tracked."""
    with locked(lock_path(workspace)), _connection(workspace) as connection:
        query = "SELECT experiment_id FROM experiments WHERE name = ?"
        found = connection and connection.execute(query, [EXPERIMENT]).fetchone()
        return str(found[0]) if found else None


def compare_page(workspace: Path) -> str:
    """The part of the UI's address that opens the table of the variants, sorted by perplexity."""
    experiment = experiment_id(workspace)
    view = f"runs?workflowType=machine_learning&viewStateShareKey={VIEW}"
    return f"/#/experiments/{experiment}/{view}" if experiment else "/"


def read_runs(workspace: Path) -> list[Run]:
    """Every run that is not deleted, the last recorded first, whatever the clock says; [] when nothing was tracked.

    Each is {"run_id", "name", "status", "start_time" (ms), "artifact_uri", "experiment_id", "tags",
    "params", "metrics" (the latest values)}. To be called with the lock held.
    """
    with _connection(workspace) as connection:
        if connection is None:
            return []
        runs = {
            row["run_id"]: dict(row) | {"tags": {}, "params": {}, "metrics": {}}
            for row in connection.execute(_RUNS, [EXPERIMENT])
        }
        for kind in ("tags", "params"):
            for run_id, key, value in connection.execute(f"SELECT run_uuid, key, value FROM {kind}"):
                if run_id in runs:
                    runs[run_id][kind][key] = value
        metrics = connection.execute("SELECT run_uuid, key, value, is_nan FROM latest_metrics")
        for run_id, key, value, is_nan in metrics:
            if run_id in runs:
                runs[run_id]["metrics"][key] = math.nan if is_nan else value
    return list(runs.values())


def artifact_folder(workspace: Path, run: Run) -> Path:
    """Where the small files of a run lie; of a workspace that was moved where they were moved to."""
    named = Path(unquote(urlparse(run["artifact_uri"]).path))
    moved = database(workspace).with_name("mlflow-artifacts") / run["run_id"] / "artifacts"
    return moved if moved.is_dir() else named


def registered_versions(workspace: Path) -> list[dict[str, Any]]:
    """Every version of every registered model that is not deleted; to be called with the lock held.

    Each is {"name", "version", "source", "run_id", "aliases" (a list), "tags", "run_tags" (of its run, a deleted one
    too)}.
    """
    with _connection(workspace) as connection:
        if connection is None:
            return []
        known = "SELECT 1 FROM sqlite_master WHERE name = 'model_versions'"
        if not connection.execute(known).fetchone():
            return []
        versions = [dict(row) for row in connection.execute(_VERSIONS)]
        for version in versions:
            own = [version["name"], version["version"]]
            tags = "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?"
            version["tags"] = dict(map(tuple, connection.execute(tags, own)))
            aliases = "SELECT alias FROM registered_model_aliases WHERE name = ? AND version = ?"
            version["aliases"] = [row[0] for row in connection.execute(aliases, own)]
            run_tags = "SELECT key, value FROM tags WHERE run_uuid = ?"
            version["run_tags"] = dict(map(tuple, connection.execute(run_tags, [version["run_id"]])))
    return versions


@contextmanager
def _connection(workspace: Path) -> Iterator[sqlite3.Connection | None]:
    """The database, to be read; None where there is none, or one that a killed process left without tables."""
    path = database(workspace)
    if not path.is_file():
        yield None
        return
    # Not mode=ro: what a killed writer left unfinished has to be rolled back before anybody can read.
    uri = f"{path.as_uri()}?mode=rw"
    with explained(path), closing(sqlite3.connect(uri, uri=True, timeout=LOCK_SECONDS)) as connection:
        connection.row_factory = sqlite3.Row
        made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
        yield connection if made else None
