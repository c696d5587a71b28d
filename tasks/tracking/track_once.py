"""MLflow: runs that are not of variants, one for each comparison or export."""

import time
from collections.abc import Callable
from pathlib import Path

from tasks.tracking.connection import connect
from tasks.tracking.run_index import FINISHED, Client, artifact_folder, find
from tasks.tracking.runs import TrackedRun, begin_run

CONTENT = "content.digest"

Write = Callable[[Client, str], None]
"""Called with the client and the run's id; writes all that the run shows."""


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
    with connect(workspace) as client:
        mine = find(client, identity)
        finished = next((run for run in mine if run["status"] == FINISHED), None)
        same = finished and finished["tags"].get(CONTENT) == content
        if same and (artifact_folder(workspace, finished) / shown).is_file():
            return TrackedRun(finished["run_id"], reused=True)
        if finished:
            run_id = finished["run_id"]
        else:
            for unfinished in mine:
                client.delete_run(unfinished["run_id"])
            all_tags = identity | tags | {"mlflow.source.type": "LOCAL"}
            run_id, _ = begin_run(client, name, all_tags, int(time.time() * 1000))
        write(client, run_id)
        # Last: it says that all of the above is there.
        client.set_tag(run_id, CONTENT, content)
        if not finished:
            client.set_terminated(run_id, FINISHED)
        return TrackedRun(run_id, reused=finished is not None)
