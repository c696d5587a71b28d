import dataclasses
import importlib.metadata
import pickle
from pathlib import Path

import pytest

from pruning_core.errors import ComputationError, InputError
from tasks.engine import step as step_module
from tasks.engine.step import Context, step
from tasks.store.store import Store

RUNS = []


@step("number")
def number(params, inputs, out, context):
    RUNS.append(params["n"])
    (out / "n.txt").write_text(str(params["n"]))
    return {"n": params["n"]}


@step("double", modules=lambda params: [f"pruning_core.{params['with']}"])
def double(params, inputs, out, context):
    n = int((inputs["number"].path / "n.txt").read_text())
    (out / "n.txt").write_text(str(2 * n))


@step("resumed")
def resumed(params, inputs, out, context):
    mark = context.scratch / "mark"
    if not mark.exists():
        mark.write_text("half done")
        raise RuntimeError("interrupted")
    return {"found": mark.read_text()}


@pytest.fixture(autouse=True)
def count():
    RUNS.clear()


def test_a_pipeline_runs_each_step_once_and_finds_it_afterwards(context):
    for _ in range(2):
        one = context.run(number, {"n": 21}, {}, "first")
        two = context.run(double, {"with": "errors"}, {"number": one})
    assert RUNS == [21] and one.hit and two.hit
    assert (two.path / "n.txt").read_text() == "42" and two.kind == "double"


@pytest.mark.parametrize("moment", ["before", "during"])
def test_nothing_is_made_of_an_input_that_was_altered_since_it_was_found(context, monkeypatch, moment):
    one = context.run(number, {"n": 21}, {})

    def alter():
        (one.path / "n.txt").chmod(0o644)
        (one.path / "n.txt").write_text("22")

    if moment == "before":
        alter()
    else:
        work = double.function
        altering = dataclasses.replace(double, function=lambda *given, **named: [work(*given, **named), alter()][0])
        monkeypatch.setattr(step_module, "module_digests", lambda names: {})
    with pytest.raises(
        ComputationError, match=r"number .*altered during the run \(file n.txt was changed\); run the same"
    ):
        context.run(double if moment == "before" else altering, {"with": "errors"}, {"number": one})
    assert context.run(number, {"n": 21}, {}).hit is False
    assert not any("double" in path.read_text() for path in context.store.objects.glob("*/manifest.json"))


def test_the_label_is_not_in_the_key(context):
    context.run(number, {"n": 1}, {}, "a")
    assert context.run(number, {"n": 1}, {}, "b").hit


def test_inputs_count_by_content_not_by_how_they_came_to_be(context):
    one = context.run(number, {"n": 1}, {})
    same = dataclasses.replace(one, key="another", path=Path("/elsewhere"), kind="copy")
    other = dataclasses.replace(one, digest="0" * 64)
    params = {"with": "errors"}
    assert double.call(params, {"number": one}).key == double.call(params, {"number": same}).key
    assert double.call(params, {"number": one}).key != double.call(params, {"number": other}).key
    assert double.call(params, {"number": one}).key != double.call(params, {"other": one}).key


def test_params_code_chosen_code_and_versions_are_in_the_key(context, monkeypatch):
    keys = {number.call({"n": 1}, {}).key, number.call({"n": 2}, {}).key, number.call({"n": 1.0}, {}).key}
    keys |= {double.call({"with": name}, {}).key for name in ("errors", "registry")}
    monkeypatch.setattr(step_module, "_versions", lambda: {"torch": "99"})
    keys |= {number.call({"n": 1}, {}).key}
    assert len(keys) == 6


def test_how_a_result_is_computed_is_given_to_the_step_and_not_to_its_key(context):
    seen = []

    @step("patient", unkeyed=("where",))
    def patient(params, inputs, out, context):
        seen.append(params)

    first = context.run(patient, {"n": 1, "where": "memory"}, {})
    again = context.run(patient, {"n": 1, "where": "disk"}, {})
    assert again.hit and again.key == first.key
    assert context.run(patient, {"n": 2, "where": "disk"}, {}).key != first.key
    assert seen == [{"n": 1, "where": "memory"}, {"n": 2, "where": "disk"}]
    assert first.manifest["params"] == {"n": 1}


def test_an_edit_of_code_that_a_step_uses_changes_its_key(monkeypatch):
    before, real = number.call({"n": 1}, {}).key, step_module.module_digests
    monkeypatch.setattr(step_module, "module_digests", lambda names: {**real(names), __name__: "edited"})
    assert number.call({"n": 1}, {}).key != before


def test_the_versions_are_those_installed():
    found = step_module.versions()
    for library in ("torch", "transformers", "tokenizers", "numpy", "numba", "safetensors"):
        assert found[library] == importlib.metadata.version(library)
    assert found["espalier"] == "0.1.0"


def test_a_path_in_the_params_is_refused_before_anything_runs(context):
    with pytest.raises(InputError, match=r"params\.where"):
        context.run(number, {"n": 1, "where": Path("x")}, {})
    assert RUNS == []


def test_a_failure_is_raised_and_not_remembered_and_scratch_lets_the_next_run_resume(context):
    with pytest.raises(RuntimeError, match="interrupted"):
        context.run(resumed, {}, {})
    assert context.run(resumed, {}, {}).facts == {"found": "half done"}
    assert list((context.store.root / "scratch").iterdir()) == []


def test_what_a_step_does_to_its_params_reaches_nobody(context):
    @step("greedy")
    def greedy(params, inputs, out, context):
        params["list"].clear()

    params = {"list": [1, 2]}
    artifact = context.run(greedy, params, {})
    assert params == {"list": [1, 2]} == artifact.manifest["params"]


def test_a_context_made_from_another_runs_in_its_own_store(context, tmp_path):
    other = dataclasses.replace(context, store=Store(tmp_path / "other"))
    artifact = other.run(number, {"n": 1}, {})
    assert artifact.path.is_relative_to(tmp_path / "other")
    chosen = Context(context.store, tmp_path, driver=lambda *given: "mine")
    assert dataclasses.replace(chosen, workspace=Path("x")).run(number, {}, {}) == "mine"


def test_a_step_travels_to_a_worker_by_its_name_alone():
    sent = pickle.dumps(number)
    assert pickle.loads(sent) is number
    assert len(sent) < 150
