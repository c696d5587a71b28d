"""MLflow: a run of its own for a comparison, which shows the report; the same variants never give a second one.

`client` is the MlflowClient that `tasks.tracking.connected` gives.
"""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks.canonical import digest_of, plain
from tasks.comparison import comparable
from tasks.locks import locked
from tasks.owners import Owner
from tasks.report_summary import summary
from tasks.tracking import OWNER, TrackedRun, connected
from tasks.tracking_index import EXPERIMENT, FINISHED, Run, artifact_folder, lock_path, read_runs

KIND, COMPARISON = "kind", "comparison"
CONTENT = "content.digest"


def track_comparison(workspace: Path, page: Path, records: Iterable[Mapping[str, Any]]) -> TrackedRun:
    """Make the run of a comparison, or find it: there is one for the same page of the same variants' runs.

    What the page says of them is compared without the time that steps took: where it is what the run shows, nothing is
    written; otherwise the page there is replaced. Other variants are another comparison, and that of before stays.

    Args:
        page: the report, written.
        records: what it was written from, each with the `run_id` of its variant.

    Raises:
        InputError: records that no report can be written from.
    """
    records = list(records)
    runs = {record["name"]: record["run_id"] for record in records}
    identity = {KIND: COMPARISON, "page": page.name, "runs.digest": digest_of(runs)}
    content = digest_of([plain({key: value for key, value in record.items() if key != "steps"}) for record in records])
    with locked(lock_path(workspace)):
        mine = [run for run in read_runs(workspace) if identity.items() <= run["tags"].items()]
        finished = next((run for run in mine if run["status"] == FINISHED), None)
        if finished and finished["tags"].get(CONTENT) == content and _shows(workspace, finished, page):
            return TrackedRun(finished["run_id"], reused=True)
        with connected(workspace) as client:
            if finished:
                _write(client, finished["run_id"], page, records, content)
                return TrackedRun(finished["run_id"], reused=True)
            for run in mine:
                client.delete_run(run["run_id"])
            return TrackedRun(_create(client, page, records, identity, content), reused=False)


def _shows(workspace: Path, run: Run, page: Path) -> bool:
    return (artifact_folder(workspace, run) / page.name).is_file()


def _create(client: Any, page: Path, records: list[Mapping[str, Any]], identity: dict[str, str], content: str) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    now = int(time.time() * 1000)
    tags = identity | {
        OWNER: json.dumps(Owner.here().facts()),
        "mlflow.source.name": f"espalier {'compare' if page.stem == COMPARISON else page.stem}",
        "mlflow.source.type": "LOCAL",
        # One tag each: a tag of all of them would be too long for MLflow where there are many.
        **{f"run.{record['name']}": record["run_id"] for record in records},
    }
    run_id = client.create_run(experiment, now, tags, page.stem).info.run_id
    _write(client, run_id, page, records, content)
    client.set_terminated(run_id, FINISHED)
    return run_id


def _write(client: Any, run_id: str, page: Path, records: list[Mapping[str, Any]], content: str) -> None:
    client.log_artifact(run_id, str(page))
    names = ", ".join(record["name"] for record in records)
    told = f"{summary(comparable(records))}\n\nThe report is `{page.name}` under Artifacts. Compared: {names}."
    client.set_tag(run_id, "mlflow.note.content", told[:7900])
    # Last: it says that all of the above is there.
    client.set_tag(run_id, CONTENT, content)
