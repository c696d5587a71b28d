"""MLflow: one run per variant, written once.

Weights are not copied: the run names the artifact's path and digest, and an external model stands for it in the model
list. Of MLflow only its public client and entities are used.
"""

import json
import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.machine.process_identity import Owner
from tasks.records.variant import Dataset, Variant
from tasks.tracking import run_contents
from tasks.tracking.connection import connect, is_made, run_tags
from tasks.tracking.run_files import SAMPLES_TAG, SETTINGS, drawing_files, files_of, sample_files
from tasks.tracking.run_index import EXPERIMENT, FINISHED, Run, artifact_folder, every, find, next_in_sequence

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

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
    with connect(workspace) as client:
        mine = find(client, run_contents.identity(variant))
        finished = next((run for run in mine if run["status"] == FINISHED), None)
        dense = run_contents.parent_runs(variant, find(client, {"role": "baseline"}, FINISHED))
        tags = run_contents.tags(variant, workspace) | dense
        if finished:
            _complete(client, workspace, finished, variant, tags)
            return TrackedRun(finished["run_id"], reused=True)
        for run in mine:
            _discard(client, run)
        return TrackedRun(_create(client, variant, tags, artifacts), reused=False)


def find_runs(workspace: Path, tags: Mapping[str, str] | None = None, status: str | None = FINISHED) -> list[Run]:
    """What `find` finds in a workspace: its finished runs, the newest first; [] where nothing was tracked."""
    if not is_made(workspace):
        return []
    with connect(workspace) as client:
        return find(client, tags, status)


def end_abandoned(workspace: Path) -> list[str]:
    """End the runs that a killed process left RUNNING as KILLED; returns their names.

    The variant's next run takes their place.
    """
    if not is_made(workspace):
        return []
    with connect(workspace) as client:
        left = [run for run in find(client, status="RUNNING") if OWNER in run["tags"]]
        left = [run for run in left if Owner(**json.loads(run["tags"][OWNER])).is_gone()]
        for run in left:
            client.set_tag(run["run_id"], "mlflow.note.content", "The process that wrote it was killed.")
            client.set_terminated(run["run_id"], "KILLED")
    return [run["name"] for run in left]


def begin_run(client: "MlflowClient", name: str, tags: Mapping[str, str], started: int) -> tuple[str, str]:
    """A new run that says which process writes it; (its id, that of its experiment).

    Args:
        started: ms since 1970.
    """
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    process_tags = {OWNER: json.dumps(Owner.here().facts()), **next_in_sequence(client)}
    return client.create_run(experiment, started, {**tags, **process_tags}, name).info.run_id, experiment


def _complete(client: "MlflowClient", workspace: Path, run: Run, variant: Variant, tags: dict[str, str]) -> None:
    """Give a finished run what became known since."""
    missing = run_contents.missing(run, variant, tags)
    # Equal keys: what leads to this variant now led to it then.
    has_settings = (artifact_folder(workspace, run) / SETTINGS).is_file()
    texts = {} if has_settings else files_of(variant.provenance)
    texts |= sample_files(variant.samples) if SAMPLES_TAG in missing["tags"] else {}
    # The tags last: they say which texts are there.
    _log_texts(client, run["run_id"], texts)
    if any(missing.values()):
        _log(client, run["run_id"], **missing)


def _create(client: "MlflowClient", variant: Variant, tags: dict[str, str], artifacts: list[Path]) -> str:
    now = int(time.time() * 1000)
    # The run lasts as long as the work did, not as long as writing it down.
    seconds = sum(stage.seconds or 0.0 for stage in variant.steps)
    run_id, experiment = begin_run(client, variant.name, tags, now - int(1000 * seconds))
    parameters = run_contents.params(variant.recipe)
    model = _external_model(client, variant, experiment, run_id, parameters)
    _log(client, run_id, tags={"model_id": model}, params=parameters)
    _log(client, run_id, metrics=run_contents.quality(variant), model=model)
    _log_steps(client, run_id, run_contents.layer_metrics(variant))
    _log_steps(client, run_id, run_contents.search_metrics(variant))
    _log_steps(client, run_id, run_contents.loss_metrics(variant))
    _link(client, run_id, variant, model, tags.get("parent.dense.run_id"))
    _log_artifacts(client, run_id, variant, artifacts)
    client.set_terminated(run_id, FINISHED, end_time=now)
    return run_id


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


def _link(client: "MlflowClient", run_id: str, variant: Variant, model: str, parent: str | None) -> None:
    """The run's inputs (texts, and the dense model where its run is known) and its output."""
    from mlflow.entities import LoggedModelInput, LoggedModelOutput

    dense = run_tags(client, parent).get("model_id")
    texts = [_dataset(context, text) for context, text in variant.datasets.items() if text]
    client.log_inputs(run_id, texts, [LoggedModelInput(dense)] if dense else [])
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
    _log_texts(client, run_id, texts | drawing_files(variant.facts.layers, artifacts))


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
    search = client.search_logged_models
    for model in list(every(search, experiment_ids=[run["experiment_id"]], filter_string=filter_string)):
        client.delete_logged_model(model.model_id)
    client.delete_run(run["run_id"])
