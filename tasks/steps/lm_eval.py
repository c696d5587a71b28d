"""Step: evaluate a model on lm-eval tasks, beside the dense model's answers to the same items."""

import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning_core.checkpoint.durable_files import file_sha256
from pruning_core.checkpoint.model_files import read_tokenizer
from pruning_core.errors import InputError
from pruning_core.evaluation.lm_eval.layouts import BENCHMARKS, Continuation
from pruning_core.evaluation.lm_eval.rows import read_rows
from pruning_core.evaluation.lm_eval.scores import Item, accuracies, beside
from pruning_core.evaluation.protocol import TaskProtocol
from pruning_core.settings.compute import Running
from pruning_core.source import load_model
from tasks.engine.step import Context, step
from tasks.progress import progress
from tasks.steps.lm_eval_items import ITEMS
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import write_json

LIBRARIES = ("lm_eval", "datasets")


@dataclass(frozen=True, kw_only=True)
class LmEvalParams:
    """The lm-eval tasks and how they are run.

    Args:
        tasks: lm-eval tasks, mappings {name, few_shot, limit, data, examples}, the last two SHA-256 of files or None.
        files: SHA-256 -> path.
        batch: prompts per forward.
        libraries: as `libraries` gives them.
    """

    tasks: list[dict[str, Any]]
    files: dict[str, str]
    batch: int
    trust_remote_code: bool
    device: str
    libraries: dict[str, str]


@step("task_evaluation", unkeyed=("files",))
def evaluate_lm_eval_tasks(
    params: LmEvalParams, inputs: dict[str, Artifact], out: Path, context: Context
) -> dict[str, Any]:
    """Accuracy on lm-eval tasks, and the paired difference to the dense model.

    inputs: model; items-NAME for an lm-eval task whose items are an artifact (`tasks.steps.lm_eval_items`); and for a
        compressed model baseline (the dense model's task_evaluation).
    writes: metrics.json, items.jsonl {task, id, correct, chosen, log_likelihoods in nats, correct_norm, chosen_norm}.
    """
    # The harness takes seconds to import.
    from pruning_core.evaluation.lm_eval.harness import Examinee, answer

    path, trust = inputs["model"].path, params.trust_remote_code
    defined = {spec["name"]: _lm_eval_task(spec, params, inputs, context) for spec in params.tasks}
    model = load_model(path, trust_remote_code=trust).to(Running(params.device).torch_device)
    examinee = Examinee(model, read_tokenizer(path, trust_remote_code=trust), params.batch)
    answers = {}
    for spec in params.tasks:
        name = spec["name"]
        shown = progress(f"task {name}")
        answers[name] = answer(examinee, defined.pop(name), spec["few_shot"], spec["limit"], shown)
    agreed = {name: given.protocol for name, given in answers.items()}
    protocol = TaskProtocol(agreed, params.libraries["lm_eval"], examinee.max_length)
    dense = _answers_of(inputs["baseline"], protocol) if "baseline" in inputs else None
    results = {}
    for name, given in answers.items():
        theirs = [item for item in dense if item.task == name] if dense is not None else given.items
        results[name] = accuracies(given.items) | {
            "truncated": given.truncated,
            "to_dense": beside(given.items, theirs),
        }
    metrics = {
        "tasks": results,
        "mean_accuracy": sum(task["accuracy"] for task in results.values()) / len(results),
        "protocol": protocol.facts() | {"digest": protocol.digest},
    }
    write_json(out / "metrics.json", metrics)
    lines = [json.dumps(item.facts()) + "\n" for given in answers.values() for item in given.items]
    (out / ITEMS).write_text("".join(lines))
    return metrics


def libraries() -> dict[str, str]:
    """Versions of the libraries that only this step uses, for its params: a part of its key."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def items_of(evaluation: Artifact) -> list[Item]:
    """The answers in an artifact of this step, lm-eval task by lm-eval task."""
    lines = (evaluation.path / ITEMS).read_text().splitlines()
    return [Item.of(json.loads(line)) for line in lines]


def _lm_eval_task(spec: dict[str, Any], params: LmEvalParams, inputs: dict[str, Artifact], context: Context) -> Any:
    """The lm-eval task with its items; defined before the model is loaded, so that bad data fails at once."""
    from pruning_core.evaluation.lm_eval.definitions import task_of_hub, task_of_rows

    name = spec["name"]
    if items := inputs.get(f"items-{name}"):
        return task_of_rows(name, read_rows(items.path / ITEMS, Continuation))
    if spec["data"] is None:
        return task_of_hub(name, context.store.root / "datasets")
    rows = {key: _rows(name, spec[key], params.files, context) for key in ("data", "examples") if spec[key]}
    return task_of_rows(name, rows["data"], rows.get("examples"))


def _rows(name: str, digest: str, files: dict[str, str], context: Context) -> list[dict[str, Any]]:
    path = context.workspace / files[digest]
    rows = read_rows(path, BENCHMARKS[name].layout, files[digest])
    if file_sha256(path) != digest:
        raise InputError(f"{files[digest]} was changed since the run began; start again")
    return rows


def _answers_of(baseline: Artifact, protocol: TaskProtocol) -> list[Item]:
    """The dense model's answers, checked to be of the same protocol."""
    agreed = {name: value for name, value in baseline.facts["protocol"].items() if name != "digest"}
    protocol.require_same(TaskProtocol(**agreed))
    return items_of(baseline)
