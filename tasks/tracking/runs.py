"""MLflow: one run per variant, written once. The only module that imports mlflow, and only inside functions.

Everything is opened and closed within one call and under one lock: two processes that create the database at
the same time would break it, and two that look for the same run would both create it. Weights are not copied:
the run names the artifact's path and digest, and an external model stands for it in the model list.
"""

import contextlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.machine.process_identity import Owner
from tasks.records.variant import Dataset, Variant
from tasks.store.locks import locked
from tasks.tracking import run_contents
from tasks.tracking.database_faults import explained
from tasks.tracking.run_contents import experiment_tags
from tasks.tracking.run_files import SAMPLES_TAG, SETTINGS, drawn_files, files_of, sample_files
from tasks.tracking.run_index import (
    EXPERIMENT,
    FINISHED,
    Run,
    artifact_folder,
    database,
    is_made,
    lock_path,
    read_runs,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
# MLflow's own limits: a longer digest, and these characters in a model's name, are refused.
DATASET_DIGEST = 36
NOT_IN_MODEL_NAMES = re.compile(r"[/:.%\"']")
BATCH = 1000
OWNER = "process"
"""The tag that says who writes the run."""


@dataclass(frozen=True)
class TrackedRun:
    """The run of a variant; `reused` when it was there before."""

    run_id: str
    reused: bool


def track_variant(workspace: Path, variant: Variant, artifacts: list[Path]) -> TrackedRun:
    """Make the run of this variant, or find it: the same variant and evaluation never give a second one.

    A run that was there gets what it lacks (a DVC md5, a commit, a metric measured since); one that a killed
    process left unfinished is replaced. `artifacts` are small files or folders that the run shall show.
    """
    with locked(lock_path(workspace)):
        runs = read_runs(workspace)
        mine = [run for run in runs if run_contents.identity(variant).items() <= run["tags"].items()]
        finished = next((run for run in mine if run["status"] == FINISHED), None)
        tags = run_contents.tags(variant, workspace) | run_contents.parent_runs(variant, runs)
        if finished:
            missing = run_contents.missing(finished, variant, tags)
            # Equal keys: what leads to this variant now led to it then.
            known = (artifact_folder(workspace, finished) / SETTINGS).is_file()
            texts = {} if known else files_of(variant.provenance)
            texts |= sample_files(variant.samples) if SAMPLES_TAG in missing["tags"] else {}
            if any(missing.values()) or texts:
                with connected(workspace) as client:
                    # The tags last: they say which texts are there.
                    _log_texts(client, finished["run_id"], texts)
                    _log(client, finished["run_id"], **missing)
            return TrackedRun(finished["run_id"], reused=True)
        with connected(workspace) as client:
            for run in mine:
                _discard(client, run)
            return TrackedRun(_create(client, variant, tags, runs, artifacts), reused=False)


def find_runs(workspace: Path) -> list[Run]:
    """The finished runs, the newest first, as `read_runs` gives them; MLflow is not imported."""
    with locked(lock_path(workspace)):
        return [run for run in read_runs(workspace) if run["status"] == FINISHED]


def end_abandoned(workspace: Path) -> list[str]:
    """End the runs that a killed process left RUNNING as KILLED; returns their names.

    The variant's next run takes their place. MLflow is imported only where there are any.
    """
    with locked(lock_path(workspace)):
        left = [run for run in read_runs(workspace) if run["status"] == "RUNNING" and OWNER in run["tags"]]
        left = [run for run in left if Owner(**json.loads(run["tags"][OWNER])).is_gone()]
        if left:
            with connected(workspace) as client:
                for run in left:
                    client.set_tag(run["run_id"], "mlflow.note.content", "The process that wrote it was killed.")
                    client.set_terminated(run["run_id"], "KILLED")
    return [run["name"] for run in left]


def prepare(workspace: Path) -> str:
    """Create the database and the experiment where they are missing; returns the experiment's id."""
    with locked(lock_path(workspace)), connected(workspace) as client:
        return _experiment(client, workspace)


def store_uri(workspace: Path) -> str:
    """The address of the workspace's tracking database."""
    return f"sqlite:///{database(workspace)}"


def artifact_root(workspace: Path) -> str:
    """Where the runs' small files lie, as a URI."""
    return database(workspace).with_name("mlflow-artifacts").as_uri()


@contextlib.contextmanager
def connected(workspace: Path) -> Iterator["MlflowClient"]:
    """A client of the workspace's database, closed at the end; the global tracking URI is not touched.

    To be used with the lock held.
    """
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Its traceback of what is told in a sentence here.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

    file = database(workspace)
    file.parent.mkdir(parents=True, exist_ok=True)
    with explained(file, MlflowException, SQLAlchemyError):
        if not is_made(workspace):
            _make(file)
        client = MlflowClient(tracking_uri=store_uri(workspace), registry_uri=store_uri(workspace))
        store = client._tracking_client.store
        try:
            _experiment(client, workspace)
            yield client
        finally:
            # No public call closes the connections; an open one would keep the file busy for other processes.
            store._dispose_engine()


def _make(file: Path) -> None:
    """Make the database under another name and rename it: one that a kill left half made would stop all later commands.

    Not left to MLflow, which also looks only once in a process whether there is one.
    """
    from mlflow.store.db import utils

    new = file.with_suffix(".new")
    # A journal without its database would be rolled back into the new one.
    for left_by_a_kill in (new, Path(f"{new}-journal"), Path(f"{file}-journal")):
        left_by_a_kill.unlink(missing_ok=True)
    engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{new}")
    try:
        utils._initialize_tables(engine)
    finally:
        engine.dispose()
    new.replace(file)


def _experiment(client: "MlflowClient", workspace: Path) -> str:
    known = client.get_experiment_by_name(EXPERIMENT)
    if known:
        return known.experiment_id
    return client.create_experiment(EXPERIMENT, artifact_root(workspace), experiment_tags())


def _create(
    client: "MlflowClient", variant: Variant, tags: dict[str, str], runs: list[Run], artifacts: list[Path]
) -> str:
    now = int(time.time() * 1000)
    # The run lasts as long as the work did, not as long as writing it down.
    seconds = sum(stage.seconds or 0.0 for stage in variant.steps)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    tags = tags | {OWNER: json.dumps(Owner.here().facts())}
    run = client.create_run(experiment, now - int(1000 * seconds), tags, variant.name).info
    parameters = run_contents.params(variant.recipe)
    model = _external_model(client, variant, experiment, run.run_id, parameters)
    _log(client, run.run_id, tags={"model_id": model}, params=parameters)
    _log(client, run.run_id, metrics=run_contents.quality(variant), model=model)
    _log_steps(client, run.run_id, run_contents.layer_metrics(variant))
    _log_steps(client, run.run_id, run_contents.search_metrics(variant))
    _log_steps(client, run.run_id, run_contents.loss_metrics(variant))
    _link(client, run.run_id, variant, model, tags.get("parent.dense.run_id"), runs)
    _log_artifacts(client, run.run_id, variant, artifacts)
    client.set_terminated(run.run_id, FINISHED, end_time=now)
    return run.run_id


def _external_model(
    client: "MlflowClient", variant: Variant, experiment: str, run_id: str, parameters: dict[str, str]
) -> str:
    """A model in MLflow's list that stands for the artifact: its path and digest, nothing copied."""
    tags = {
        "mlflow.model.isExternal": "true",
        "digest": variant.model.digest,
        "path": variant.model.path or "",
    }
    name = NOT_IN_MODEL_NAMES.sub("_", variant.name)
    model = client.create_logged_model(experiment, name, run_id, tags, parameters, "language model")
    client.finalize_logged_model(model.model_id, "READY")
    return model.model_id


def _log(
    client: "MlflowClient",
    run_id: str,
    metrics: Mapping[str, float] | None = None,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    model: str | None = None,
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        [Metric(name, value, now, 0, model_id=model) for name, value in (metrics or {}).items()],
        [Param(name, value) for name, value in (params or {}).items()],
        [RunTag(name, value) for name, value in (tags or {}).items()],
    )


def _log_steps(client: "MlflowClient", run_id: str, values: Iterable[tuple[str, float, int]]) -> None:
    """Metrics that are curves: (name, value, step)."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, step) for name, value, step in values]
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics[start : start + BATCH])


def _link(
    client: "MlflowClient", run_id: str, variant: Variant, model: str, parent: str | None, runs: list[Run]
) -> None:
    """The run's inputs (texts, and the dense model where its run is known) and its output."""
    from mlflow.entities import LoggedModelInput, LoggedModelOutput

    dense = [run["tags"]["model_id"] for run in runs if run["run_id"] == parent and "model_id" in run["tags"]]
    texts = [_dataset(context, text) for context, text in variant.datasets.items() if text]
    client.log_inputs(run_id, texts, [LoggedModelInput(identifier) for identifier in dense])
    client.log_outputs(run_id, [LoggedModelOutput(model, 0)])


def _dataset(context: str, text: Dataset) -> "DatasetInput":
    from mlflow.entities import Dataset as Entity
    from mlflow.entities import DatasetInput, InputTag

    source = json.dumps({"sha256": text.digest, **text.source})
    entity = Entity(text.name, text.digest[:DATASET_DIGEST], "text", source)
    return DatasetInput(entity, [InputTag("mlflow.data.context", context)])


def _log_artifacts(client: "MlflowClient", run_id: str, variant: Variant, artifacts: list[Path]) -> None:
    manifest = Path(variant.model.path or "") / "manifest.json"
    for path in [*([manifest] if variant.model.path and manifest.is_file() else []), *artifacts]:
        if path.is_dir():
            client.log_artifacts(run_id, str(path), path.name)
        else:
            client.log_artifact(run_id, str(path))
    texts = files_of(variant.provenance) | sample_files(variant.samples)
    _log_texts(client, run_id, texts | drawn_files(variant.facts.layers, artifacts))


def _log_texts(client: "MlflowClient", run_id: str, texts: Mapping[str, str]) -> None:
    """Small files by their content."""
    for name, text in texts.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name
            file.write_text(text)
            client.log_artifact(run_id, str(file))


def _discard(client: "MlflowClient", run: Run) -> None:
    """Delete what a killed process left: its unfinished run and the models that it made."""
    filter_string = f"source_run_id = '{run['run_id']}'"
    for model in client.search_logged_models([str(run["experiment_id"])], filter_string):
        client.delete_logged_model(model.model_id)
    client.delete_run(run["run_id"])
