"""The steps of the lm-eval tasks in params.yaml: the items of the evaluation text, then the answers."""

from collections.abc import Callable
from typing import Any

from pruning_core.errors import InputError
from pruning_core.settings.lm_eval import DomainTask, HarnessTask, LmEvalTask, build_lm_eval_tasks
from pruning_core.settings.recipe import BASELINE
from pruning_core.text import TEXTS
from tasks.pipeline.inputs import Inputs
from tasks.steps.lm_eval import LmEvalParams, evaluate_lm_eval_tasks, libraries
from tasks.steps.lm_eval_items import LmEvalItemsParams, lm_eval_items
from tasks.steps.source_model import FileDigests
from tasks.store.artifact import Artifact


def lm_eval_answers(shared: Inputs, model_of: Callable[[str], Artifact | None], name: str) -> Artifact | None:
    """A variant's answers to the lm-eval tasks; None without such tasks, or where the driver only looks and has none.

    Args:
        model_of: the model of a variant, by its name.

    Raises:
        InputError: a file of items that cannot be read.
    """
    lm_eval_tasks = build_lm_eval_tasks(shared.settings.evaluation.tasks)
    if not lm_eval_tasks:
        return None
    files: dict[str, str] = {}
    params = LmEvalParams(
        tasks=[_lm_eval_task_param(shared, task, files) for task in lm_eval_tasks],
        files=files,
        batch=shared.settings.evaluation.batch,
        trust_remote_code=shared.trust,
        device=shared.on_device["device"],
        libraries=libraries(),
    )
    inputs = {f"items-{task.name}": _items(shared, task) for task in lm_eval_tasks if isinstance(task, DomainTask)}
    # The dense model first: what is wrong with the data is told before anything is compressed.
    if name != BASELINE:
        inputs["baseline"] = lm_eval_answers(shared, model_of, BASELINE)
    inputs["model"] = model_of(name)
    return shared.context.run(evaluate_lm_eval_tasks, params, inputs, f"{name} tasks")


def _lm_eval_task_param(shared: Inputs, task: LmEvalTask, files: dict[str, str]) -> dict[str, Any]:
    """An lm-eval task as a param: files by their content, with their paths entered in `files`."""
    if isinstance(task, DomainTask):
        return {"name": task.name, "few_shot": 0, "limit": None, "data": None, "examples": None}
    digests = {key: _digest(shared, task, key, files) for key in ("data", "examples")}
    return {"name": task.name, "few_shot": task.few_shot, "limit": task.limit, **digests}


def _digest(shared: Inputs, task: HarnessTask, key: str, files: dict[str, str]) -> str | None:
    path = getattr(task, key)
    if path is None:
        return None
    sha256_of = FileDigests(shared.context.workspace / ".espalier" / "file-digests.json")
    try:
        digest = sha256_of(shared.context.workspace / path)
    except OSError as error:
        raise InputError(
            f"cannot read {path}, the {key} of task {task.name!r}: {error.strerror}; name a readable JSON Lines file"
        ) from None
    files[digest] = path
    return digest


def _items(shared: Inputs, task: DomainTask) -> Artifact | None:
    text = task.text or shared.settings.evaluation.text
    params = LmEvalItemsParams(
        text=text,
        text_digest=TEXTS.build(text).read(shared.context.workspace).digest,
        items=task.items,
        context=task.context,
        continuation=task.continuation,
        choices=task.choices,
        seed=task.seed,
        trust_remote_code=shared.trust,
    )
    return shared.context.run(lm_eval_items, params, {"source": shared.source}, f"{task.name} items")
