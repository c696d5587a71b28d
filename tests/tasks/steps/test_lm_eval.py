"""Tasks as steps: what is asked once, what is asked again, and what stands beside the dense model's answers."""

import json
from pathlib import Path

import pytest
import yaml
from pipelines import computed, pipeline_of
from structured_steps import MIXED, Steps

from pruning_core.errors import InputError
from pruning_core.evaluation.lm_eval.layouts import Continuation
from pruning_core.evaluation.lm_eval.rows import read_rows
from pruning_core.evaluation.paired import paired_accuracy
from pruning_core.evaluation.protocol import TaskProtocol
from tasks.steps.lm_eval import evaluate_lm_eval_tasks, items_of, libraries
from tasks.steps.lm_eval_items import ITEMS, lm_eval_items

DOMAIN = {"name": "domain", "items": 20, "context": 6, "continuation": 3, "choices": 3}


def piqa(root: Path, count: int = 8) -> dict:
    """A task of local items in words that the tiny model's tokenizer knows."""
    words = [f"w{number}" for number in range(1, 50)]
    rows = [
        {"goal": " ".join(words[at : at + 4]), "sol1": words[at], "sol2": f"{words[at + 5]} w7", "label": at % 2}
        for at in range(count)
    ]
    (root / "piqa.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"name": "piqa", "data": "piqa.jsonl"}


@pytest.fixture
def root(workspace_root: Path) -> Path:
    asked(workspace_root, [DOMAIN, piqa(workspace_root)])
    return workspace_root


def asked(root: Path, tasks: list[dict]) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["evaluation"]["tasks"] = tasks
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def test_a_variant_stands_beside_the_dense_model_on_the_same_items(root: Path):
    pipeline, _ = pipeline_of(root)
    dense, own = (pipeline.lm_eval_answers(name) for name in ("dense", "magnitude-50"))
    theirs, mine = items_of(dense), items_of(own)
    assert [(item.task, item.id) for item in mine] == [("domain", at) for at in range(20)] + [
        ("piqa", at) for at in range(8)
    ]
    assert json.loads((own.path / "metrics.json").read_text()) == own.facts
    for name, told in own.facts["tasks"].items():
        pairs = [(one.correct, other.correct) for one, other in zip(mine, theirs, strict=True) if one.task == name]
        assert told["items"] == len(pairs) and told["accuracy"] == sum(one for one, _ in pairs) / len(pairs)
        right = [[answers[side] for answers in pairs] for side in (0, 1)]
        assert told["to_dense"]["accuracy"] == paired_accuracy(*right).facts()
        itself = dense.facts["tasks"][name]["to_dense"]["accuracy_norm"]
        assert (itself["difference"], itself["p_value"]) == (0.0, 1.0)
    assert mine != theirs
    assert own.facts["mean_accuracy"] == sum(task["accuracy"] for task in own.facts["tasks"].values()) / 2
    assert own.facts["protocol"] == dense.facts["protocol"]
    agreed = {name: value for name, value in own.facts["protocol"].items() if name != "digest"}
    assert TaskProtocol(**agreed).digest == own.facts["protocol"]["digest"]
    assert (agreed["length"], agreed["lm_eval"]) == (32, libraries()["lm_eval"])


def test_the_items_of_the_text_are_an_artifact_that_any_reader_checks(root: Path):
    pipeline, _ = pipeline_of(root)
    pipeline.lm_eval_answers("dense")
    (made,) = [path for path in pipeline.context.store.objects.iterdir() if (path / ITEMS).exists() and _is_made(path)]
    rows = read_rows(made / ITEMS, Continuation)
    text = (root / "test.txt").read_text()
    assert len(rows) == 20 and all(row["context"] + row["choices"][row["label"]] in text for row in rows)


def _is_made(path: Path) -> bool:
    return json.loads((path / "manifest.json").read_text())["kind"] == lm_eval_items.name


def test_nothing_is_asked_twice_and_a_changed_file_asks_again(root: Path):
    for name in ("dense", "magnitude-50"):
        pipeline_of(root)[0].lm_eval_answers(name)
    pipeline, seen = pipeline_of(root)
    first = pipeline.lm_eval_answers("magnitude-50")
    assert computed(seen) == [] and first.hit
    # The same content elsewhere is the same data.
    (root / "piqa.jsonl").rename(root / "moved.jsonl")
    asked(root, [DOMAIN, {"name": "piqa", "data": "moved.jsonl"}])
    pipeline, seen = pipeline_of(root)
    assert pipeline.lm_eval_answers("magnitude-50").key == first.key and computed(seen) == []
    piqa(root, 9)
    asked(root, [DOMAIN, {"name": "piqa", "data": "piqa.jsonl"}])
    pipeline, seen = pipeline_of(root)
    other = pipeline.lm_eval_answers("magnitude-50")
    assert computed(seen) == ["dense tasks", "magnitude-50 tasks"]
    assert other.facts["protocol"]["digest"] != first.facts["protocol"]["digest"]


def test_without_tasks_nothing_runs(workspace_root: Path):
    pipeline, seen = pipeline_of(workspace_root)
    assert pipeline.lm_eval_answers("magnitude-50") is None and seen.records == []


def test_a_heterogeneous_structured_model_is_asked_too(root: Path):
    steps = Steps(root)
    dense = steps.pipeline.lm_eval_answers("dense")
    params = json.loads(json.dumps(dense.manifest["params"])) | {"files": {}}
    params["tasks"] = [task for task in params["tasks"] if task["name"] == "domain"]
    inputs = {"model": steps.model(MIXED)}
    items = dense.manifest["inputs"]["items-domain"]
    inputs["items-domain"] = steps.pipeline.context.store.find(items["key"])
    found = steps.run(evaluate_lm_eval_tasks, params, inputs, "tasks")
    assert found.facts["tasks"]["domain"]["items"] == 20
    assert [item.log_likelihoods for item in items_of(found)] != [item.log_likelihoods for item in items_of(dense)[:20]]


def test_answers_to_other_tasks_are_no_baseline(root: Path):
    pipeline, _ = pipeline_of(root)
    dense = pipeline.lm_eval_answers("dense")
    params = json.loads(json.dumps(dense.manifest["params"])) | {"files": {}}
    params["tasks"] = [task for task in params["tasks"] if task["name"] == "domain"]
    items = pipeline.context.store.find(dense.manifest["inputs"]["items-domain"]["key"])
    inputs = {"model": pipeline.source, "items-domain": items, "baseline": dense}
    with pytest.raises(InputError, match=r"cannot be compared .*tasks\.piqa"):
        pipeline.context.run(evaluate_lm_eval_tasks, params, inputs)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data": "absent.jsonl"}, r"cannot read absent\.jsonl, the data of task 'piqa': No such file"),
        ({"data": "test.txt"}, r"test\.txt, line 1 is not JSON"),
        ({"name": "openbookqa"}, r"piqa\.jsonl, line 1: the field 'choices' is missing; OpenBookQA items have"),
    ],
)
def test_bad_data_is_told_before_anything_is_compressed(root: Path, change: dict, sentence: str):
    asked(root, [{"name": "piqa", "data": "piqa.jsonl"} | change])
    pipeline, seen = pipeline_of(root)
    with pytest.raises(InputError, match=sentence):
        pipeline.lm_eval_answers("magnitude-50")
    assert computed(seen) == []


def test_a_file_that_changes_while_it_waits_is_not_read_for_another(root: Path):
    pipeline, _ = pipeline_of(root)
    dense = pipeline.lm_eval_answers("dense")
    params = json.loads(json.dumps(dense.manifest["params"]))
    (spec,) = params["tasks"] = [task for task in params["tasks"] if task["name"] == "piqa"]
    piqa(root, 9)
    with pytest.raises(InputError, match=r"piqa\.jsonl was changed since the run began"):
        pipeline.context.run(
            evaluate_lm_eval_tasks, params | {"files": {spec["data"]: "piqa.jsonl"}}, {"model": pipeline.source}
        )
