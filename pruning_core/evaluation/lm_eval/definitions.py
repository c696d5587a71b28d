"""lm-eval tasks: the definitions of lm-evaluation-harness, with items that are given or that it downloads."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval.tasks
from datasets import Dataset
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from pruning_core.errors import InputError
from pruning_core.evaluation.lm_eval.layouts import BENCHMARKS
from pruning_core.evaluation.lm_eval.quiet import quiet
from pruning_core.registry import nearest

FEW_SHOT_SEED = 1234
"""What the harness draws examples with unless it is told otherwise, so that its own command draws the same."""
SCORED = ("multiple_choice", "loglikelihood")
ITEMS, EXAMPLES = "items", "examples"

DOMAIN: dict[str, Any] = {
    "output_type": "multiple_choice",
    # Names of fields, which the harness takes as they are: a template could change a text that looks like one.
    "doc_to_text": "context",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
    "target_delimiter": "",
    "metric_list": [
        {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
    ],
    "metadata": {"version": 1},
}
"""The lm-eval task that `pruning_core.evaluation.lm_eval.continuations` makes items of."""

Rows = list[dict[str, Any]]


def task_of_rows(name: str, rows: Rows, examples: Rows | None = None) -> ConfigurableTask:
    """An lm-eval task whose items are `rows`, kept in memory: nothing is downloaded and nothing is cached on disk.

    Args:
        name: one of `BENCHMARKS`, whose prompt and metrics are the harness's own, or any other name for items of the
            layout `Continuation`.
        examples: what few-shot examples are drawn from; None: from the items, never the one that is asked.
    """
    splits = {ITEMS: rows} | ({EXAMPLES: examples} if examples else {})
    changes = {
        "task": name,
        "custom_dataset": _held({split: Dataset.from_list(part) for split, part in splits.items()}),
        "training_split": EXAMPLES if examples else None,
        "validation_split": ITEMS,
        "test_split": None,
    }
    with quiet():
        if name not in BENCHMARKS:
            return TaskManager(include_defaults=False).load([DOMAIN | changes])["tasks"][name]
        manager = TaskManager(include_path=_folder(name), include_defaults=False)
        # The members of a group are where the harness lets a definition of its own be changed.
        return manager.load([{"group": "given", "task": [changes]}])["tasks"][name]


def task_of_hub(name: str, cache: Path) -> ConfigurableTask:
    """An lm-eval task, its items downloaded from where the definition says.

    Args:
        cache: folder for what is downloaded.

    Raises:
        InputError: an unknown name, a group, a task that is not scored by log-likelihoods, or no data.
    """
    # Reading all definitions takes the harness many seconds.
    manager = TaskManager(include_path=_folder(name), include_defaults=False) if name in BENCHMARKS else TaskManager()
    if name not in manager.all_subtasks:
        if name in manager.all_tasks:
            raise InputError(f"{name!r} is a group of tasks; name those of its members that are wanted")
        raise InputError(f"{name!r} is not a known task of lm-eval{nearest(name, manager.all_subtasks)}")
    definition = manager.task_index[name].cfg or {}
    kwargs = (definition.get("dataset_kwargs") or {}) | {"cache_dir": str(cache)}
    try:
        with quiet():
            loaded = manager.load([{"group": "given", "task": [{"task": name, "dataset_kwargs": kwargs}]}])
    except (OSError, ValueError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the data of task {name!r} cannot be had ({reason}); give a local file as data, or allow the network"
        ) from error
    task = loaded["tasks"][name]
    _check_scoring(task)
    return task


def set_few_shot(task: ConfigurableTask, few_shot: int | None) -> int:
    """Set and give the number of examples before an item; None: what the definition says, 0 where it says nothing.

    Raises:
        InputError: more examples than there are other items.
    """
    count = few_shot if few_shot is not None else task.config.num_fewshot or 0
    if count and count >= len(task.fewshot_docs()):
        raise InputError(
            f"task {task.task_name!r} has {len(task.fewshot_docs())} items to draw {count} examples from; use fewer"
        )
    task.set_config("num_fewshot", count)
    task.set_fewshot_seed(FEW_SHOT_SEED)
    return count


def data_digest(task: ConfigurableTask) -> str:
    """Hex SHA-256 of the items and, where there are examples, of what these are drawn from."""
    content = hashlib.sha256()
    for docs in [task.eval_docs, *([task.fewshot_docs()] if task.config.num_fewshot else [])]:
        for doc in docs:
            content.update(json.dumps(doc, sort_keys=True, default=str).encode() + b"\n")
    return content.hexdigest()


def _check_scoring(task: ConfigurableTask) -> None:
    if task.OUTPUT_TYPE not in SCORED:
        raise InputError(
            f"task {task.task_name!r} is of the kind {task.OUTPUT_TYPE}; tasks are evaluated that are of the kind "
            + " or ".join(SCORED)
        )
    if task.config.process_results is not None or "acc" not in task.aggregation():
        raise InputError(f"task {task.task_name!r} has no accuracy of single items; choose one that has")


def _folder(name: str) -> str:
    return str(Path(lm_eval.tasks.__file__).parent / BENCHMARKS[name].folder)


def _held(splits: dict[str, Dataset]) -> Callable[..., dict[str, Dataset]]:
    def dataset(**_: Any) -> dict[str, Dataset]:
        return splits

    return dataset
