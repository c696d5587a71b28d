"""Search the MLflow runs; they are handed on as plain dictionaries.

Nothing here imports mlflow; every search is given a client, which `tasks.tracking.connection` opens.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

EXPERIMENT = "espalier"
FINISHED = "FINISHED"
VIEW = "compare"
SEQUENCE = "sequence"
"""The tag that counts the runs as they are recorded: MLflow knows only their times, and a clock may go back."""

Client = Any
"""An MlflowClient, whose name only modules that import mlflow can give."""
Run = dict[str, Any]
"""{"run_id", "name", "status", "start_time" (ms), "artifact_uri", "experiment_id", "tags", "params", "metrics" (the
latest values)}"""


def database(workspace: Path) -> Path:
    """Where the workspace keeps its runs."""
    return Path(workspace).absolute() / ".espalier" / "mlflow.db"


def find(client: Client, tags: Mapping[str, str] | None = None, status: str | None = None) -> list[Run]:
    """The runs with these tags and this status that are not deleted, the last recorded first whatever the clock says.

    Args:
        status: every one where it is None.
    """
    tags = tags or {}
    # MLflow's filters know no escaped quotes: such a value is compared below only.
    clauses = [f"tags.`{name}` = '{value}'" for name, value in tags.items() if "'" not in value]
    clauses += [f"attributes.status = '{status}'"] if status else []
    runs = every(client.search_runs, **_experiment(client), filter_string=" and ".join(clauses), order_by=_LAST_FIRST)
    return [run for run in map(_plain, runs) if tags.items() <= run["tags"].items()]


def next_in_sequence(client: Client) -> dict[str, str]:
    """The sequence tag of a new run, which makes it the last one."""
    last = client.search_runs(**_experiment(client), order_by=_LAST_FIRST, max_results=1)
    return {SEQUENCE: f"{1 + int(last[0].data.tags.get(SEQUENCE, 0)) if last else 1:08d}"}


def every(search: Callable[..., Any], **query: Any) -> Iterator[Any]:
    """All results of one of the client's searches, which returns them page by page."""
    page = search(**query)
    yield from page
    while page.token:
        page = search(**query, page_token=page.token)
        yield from page


def artifact_folder(workspace: Path, run: Run) -> Path:
    """Where the small files of a run lie; of a workspace that was moved where they were moved to."""
    named = Path(unquote(urlparse(run["artifact_uri"]).path))
    moved = database(workspace).with_name("mlflow-artifacts") / run["run_id"] / "artifacts"
    return moved if moved.is_dir() else named


_LAST_FIRST = [f"tags.{SEQUENCE} DESC"]


def _experiment(client: Client) -> dict[str, list[str]]:
    return {"experiment_ids": [client.get_experiment_by_name(EXPERIMENT).experiment_id]}


def _plain(run: Any) -> Run:
    names = ("run_id", "status", "start_time", "artifact_uri", "experiment_id")
    data = {"tags": run.data.tags, "params": run.data.params, "metrics": run.data.metrics}
    return {name: getattr(run.info, name) for name in names} | {"name": run.info.run_name} | data
