"""MLflow: runs beside those of variants, of which there is one for each thing that they are about."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.machine.process_identity import Owner
from tasks.store.locks import locked
from tasks.tracking.run_index import EXPERIMENT, FINISHED, artifact_folder, lock_path, read_runs
from tasks.tracking.runs import OWNER, TrackedRun, connected

CONTENT = "content.digest"

Write = Callable[[Any, str], None]
"""Called with the MlflowClient and the run's id; writes all that the run shows."""


def track_once(
    workspace: Path, name: str, identity: dict[str, str], content: str, shown: str, tags: dict[str, str], write: Write
) -> TrackedRun:
    """Make a run, or find it: there is one finished run with the tags `identity`.

    Where it shows `content` already nothing is written; otherwise what it shows is written anew. One that a killed
    process left unfinished is replaced.

    Args:
        name: of the run, for people.
        content: digest of what it shows.
        shown: a file that it has when all is written.
        tags: further ones of a new run.
    """
    with locked(lock_path(workspace)):
        mine = [run for run in read_runs(workspace) if identity.items() <= run["tags"].items()]
        finished = next((run for run in mine if run["status"] == FINISHED), None)
        same = finished and finished["tags"].get(CONTENT) == content
        if same and (artifact_folder(workspace, finished) / shown).is_file():
            return TrackedRun(finished["run_id"], reused=True)
        with connected(workspace) as client:
            run_id = finished["run_id"] if finished else _begin(client, mine, name, identity | tags)
            write(client, run_id)
            # Last: it says that all of the above is there.
            client.set_tag(run_id, CONTENT, content)
            if not finished:
                client.set_terminated(run_id, FINISHED)
            return TrackedRun(run_id, reused=finished is not None)


def _begin(client: Any, unfinished: list[Any], name: str, tags: dict[str, str]) -> str:
    for run in unfinished:
        client.delete_run(run["run_id"])
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    known = {OWNER: json.dumps(Owner.here().facts()), "mlflow.source.type": "LOCAL"}
    return client.create_run(experiment, int(time.time() * 1000), tags | known, name).info.run_id
