"""Which steps ask a variant the tasks of params.yaml: the items of the evaluation text, then the answers."""

from typing import TYPE_CHECKING, Any

from pruning_core.errors import InputError
from pruning_core.recipe import BASELINE
from pruning_core.task_settings import DomainTask, HarnessTask, Task, build_tasks
from pruning_core.text import TEXTS
from tasks.artifact import Artifact
from tasks.evaluate_tasks import evaluate_tasks, libraries
from tasks.sources import FileDigests
from tasks.task_items import task_items

if TYPE_CHECKING:
    from tasks.pipeline import Pipeline


def judged(pipeline: "Pipeline", name: str) -> Artifact | None:
    """A variant's answers; None where params.yaml has no tasks, or the driver only looks and they are not there yet.

    Raises:
        InputError: a file of items that cannot be read.
    """
    chosen = build_tasks(pipeline.settings.evaluation.tasks)
    if not chosen:
        return None
    files: dict[str, str] = {}
    params = {
        "tasks": [_described(pipeline, task, files) for task in chosen],
        "files": files,
        "batch": pipeline.settings.evaluation.batch,
        "trust_remote_code": pipeline.trust,
        "device": pipeline.forwards["device"],
        "libraries": libraries(),
    }
    inputs = {f"items-{task.name}": _items(pipeline, task) for task in chosen if isinstance(task, DomainTask)}
    # The dense model first: what is wrong with the data is told before anything is compressed.
    if name != BASELINE:
        inputs["baseline"] = judged(pipeline, BASELINE)
    inputs["model"] = pipeline.model(name)
    return pipeline.context.run(evaluate_tasks, params, inputs, f"{name} tasks")


def _described(pipeline: "Pipeline", task: Task, files: dict[str, str]) -> dict[str, Any]:
    """The task as a param: files by their content, with their paths entered in `files`."""
    if isinstance(task, DomainTask):
        return {"name": task.name, "few_shot": 0, "limit": None, "data": None, "examples": None}
    digests = {key: _digest(pipeline, task, key, files) for key in ("data", "examples")}
    return {"name": task.name, "few_shot": task.few_shot, "limit": task.limit, **digests}


def _digest(pipeline: "Pipeline", task: HarnessTask, key: str, files: dict[str, str]) -> str | None:
    path = getattr(task, key)
    if path is None:
        return None
    known = FileDigests(pipeline.context.workspace / ".espalier" / "file-digests.json")
    try:
        digest = known(pipeline.context.workspace / path)
    except OSError as error:
        raise InputError(
            f"cannot read {path}, the {key} of task {task.name!r}: {error.strerror}; name a readable JSON Lines file"
        ) from None
    files[digest] = path
    return digest


def _items(pipeline: "Pipeline", task: DomainTask) -> Artifact | None:
    text = task.text or pipeline.settings.evaluation.text
    params = {
        "text": text,
        "text_digest": TEXTS.build(text).read(pipeline.context.workspace).digest,
        "items": task.items,
        "context": task.context,
        "continuation": task.continuation,
        "choices": task.choices,
        "seed": task.seed,
        "trust_remote_code": pipeline.trust,
    }
    return pipeline.context.run(task_items, params, {"source": pipeline.source}, f"{task.name} items")
