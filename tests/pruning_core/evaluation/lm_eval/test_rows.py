"""Items from files, and the settings that name them."""

import json
from pathlib import Path

import pytest

from pruning_core.errors import InputError
from pruning_core.evaluation.lm_eval.layouts import BENCHMARKS
from pruning_core.evaluation.lm_eval.rows import read_rows
from pruning_core.settings.lm_eval import DomainTask, HarnessTask, build_lm_eval_tasks

EXAM = {"choices": {"text": ["up", "down"], "label": ["A", "B"]}, "answerKey": "B"}
SCENE = {"activity_label": "Roof", "ctx_a": "A man.", "ctx_b": "he", "endings": ["sits.", "runs."]}
GOOD = {
    "boolq": {"passage": "P", "question": "q", "label": 1},
    "piqa": {"goal": "g", "sol1": "a", "sol2": "b", "label": 0},
    "hellaswag": SCENE | {"label": "1"},
    "winogrande": {"sentence": "A _ b.", "option1": "x", "option2": "y", "answer": "2"},
    "arc_easy": EXAM | {"question": "q"},
    "openbookqa": EXAM | {"question_stem": "q"},
    "lambada_openai": {"text": "It was a dog"},
}


def rows_of(folder: Path, name: str, *rows: dict) -> list[dict]:
    path = folder / "items.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    return read_rows(path, BENCHMARKS[name].layout, "items.jsonl")


@pytest.mark.parametrize("name", GOOD)
def test_the_fields_of_a_task_are_read_and_others_are_left_out(tmp_path: Path, name: str):
    assert rows_of(tmp_path, name, GOOD[name], GOOD[name] | {"id": 7}) == [GOOD[name]] * 2


def test_a_label_is_read_in_each_form_that_the_hub_has(tmp_path: Path):
    assert rows_of(tmp_path, "boolq", {"passage": "P", "question": "q", "answer": True}) == [GOOD["boolq"]]
    assert rows_of(tmp_path, "hellaswag", SCENE | {"label": 1}) == [GOOD["hellaswag"]]


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("piqa", {"sol2": None}, r"items.jsonl, line 3: the field 'sol2' is None \(.*string\); Piqa items have the"),
        ("piqa", {"label": "0"}, "'label' is '0'"),
        ("piqa", {"label": -1}, "'label' is -1"),
        ("piqa", {"goal": ""}, "'goal' is ''"),
        ("boolq", {"label": True}, "'label' is True"),
        ("hellaswag", {"label": "2"}, "label is '2', which is no place of its 2 endings"),
        ("hellaswag", {"endings": ["one"]}, "'endings'"),
        ("winogrande", {"sentence": "no gap"}, "'sentence'"),
        ("winogrande", {"answer": ""}, "'answer'"),
        ("arc_easy", {"answerKey": "C"}, "answerKey is 'C', which is none of the labels"),
        ("arc_easy", {"choices": {"text": ["a", "b"], "label": ["A"]}}, "2 texts and 1 labels"),
        ("openbookqa", {"choices": {"label": ["A", "B"]}}, "'choices.text' is missing"),
        ("lambada_openai", {"text": "word"}, "'text'"),
        ("lambada_openai", {"text": "trailing space "}, "'text'"),
    ],
)
def test_a_wrong_field_is_named_with_its_file_and_line(tmp_path: Path, name: str, change: dict, sentence: str):
    with pytest.raises(InputError, match=sentence):
        rows_of(tmp_path, name, GOOD[name], GOOD[name] | change)


def test_a_missing_field_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"items\.jsonl, line 1: the field 'goal' is missing"):
        rows_of(tmp_path, "piqa", {name: value for name, value in GOOD["piqa"].items() if name != "goal"})


def test_a_file_without_items_is_told(tmp_path: Path):
    path = tmp_path / "items.jsonl"
    layout = BENCHMARKS["piqa"].layout
    with pytest.raises(InputError, match=r"cannot read .*items\.jsonl"):
        read_rows(path, layout)
    path.write_text("\n\n")
    with pytest.raises(InputError, match="no line with a JSON object"):
        read_rows(path, layout)
    path.write_text('{"goal": }')
    with pytest.raises(InputError, match="line 1 is not JSON"):
        read_rows(path, layout)


def test_the_shared_data_sets_have_the_fields_of_their_tasks(shared: Path):
    counts = {}
    for name in ("piqa", "boolq", "arc_easy", "openbookqa"):
        path = shared / "data" / "zeroshot" / f"{name}_validation.jsonl"
        counts[name] = len(read_rows(path, BENCHMARKS[name].layout))
    assert counts == {"piqa": 1838, "boolq": 3270, "arc_easy": 570, "openbookqa": 500}


def test_tasks_become_typed_values():
    tasks = build_lm_eval_tasks([{"name": "domain", "items": 20}, {"name": "piqa", "data": "x.jsonl", "limit": 9}])
    assert tasks == (DomainTask(items=20), HarnessTask("piqa", data="x.jsonl", limit=9))


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"name": "piqa"}, "must be a list of mappings"),
        (["piqa"], r"evaluation.tasks\[0\] must be a mapping with the key name"),
        ([{"name": "domain"}, {"name": "domain"}], "has the task 'domain' twice"),
        ([{"name": "domain", "context": 0}], r"tasks\[0\].context"),
        ([{"name": "domain", "limit": 5}], "limit is not a known key"),
        ([{"name": "domain", "text": {"name": "wikitex"}}], "not a known text"),
        ([{"name": "piqa", "fewshot": 5}], "fewshot is not a known key .did you mean 'few_shot'"),
        ([{"name": "piqa", "limit": 0}], r"tasks\[0\].limit"),
        ([{"name": "../piqa"}], r"tasks\[0\].name"),
        ([{"name": "sciq", "data": "x.jsonl"}], "data of 'sciq' cannot be read from a file; boolq"),
        ([{"name": "piqa", "data": "x", "examples": "y"}], "examples changes nothing"),
    ],
)
def test_a_wrong_setting_is_told_with_its_place(spec, sentence: str):
    with pytest.raises(InputError, match=sentence):
        build_lm_eval_tasks(spec)
