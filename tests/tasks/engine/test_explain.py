from dataclasses import replace

import pytest

from tasks.engine import step as step_module
from tasks.engine.explain import describe, explanation, flat
from tasks.engine.look import Look
from tasks.engine.step import step


@step("make")
def make(params, inputs, out, context):
    return {"seen": params}


@step("use")
def use(params, inputs, out, context):
    return None


def explained(context, step, params, inputs):
    """Of a call that a driver looked for."""
    look = Look()
    replace(context, driver=look).run(step, params, inputs)
    return explanation(context.store, look.lookups[0])


PARAMS = {"saliency": {"name": "wanda"}, "sparsity": 0.5, "layers": [1, 2]}


def test_what_is_stored_is_cached_and_says_where(context):
    artifact = context.run(make, PARAMS, {})
    found = explained(context, make, PARAMS, {})
    assert found["cached"] and found["path"] == str(artifact.path) and found["changes"] == []


def test_an_empty_store_has_nothing_to_compare_with(context):
    found = explained(context, make, PARAMS, {})
    assert not found["cached"] and found["nearest"] is None and "stored yet" in found["reason"]


def test_the_changed_params_are_named_by_path_with_old_and_new_value(context):
    context.run(make, {**PARAMS, "sparsity": 0.9, "saliency": {"name": "obs", "form": "x"}}, {})
    near = context.run(make, PARAMS, {})
    found = explained(context, make, {**PARAMS, "sparsity": 0.6, "layers": [1, 3]}, {})
    assert found["nearest"] == near.key
    assert found["changes"] == [
        {"what": "params", "where": "layers[1]", "old": 2, "new": 3},
        {"what": "params", "where": "sparsity", "old": 0.5, "new": 0.6},
    ]
    assert found["reason"] == "2 changed: params layers[1]: 2 -> 3; params sparsity: 0.5 -> 0.6"


def test_a_changed_input_is_named_also_when_it_is_not_computed_yet(context):
    first, second = (context.run(make, {"n": n}, {}) for n in (1, 2))
    context.run(use, {}, {"model": first})
    [change] = explained(context, use, {}, {"model": second})["changes"]
    assert change == {"what": "input", "where": "model", "old": first.digest, "new": second.digest}
    found = explained(context, use, {}, {"model": None})
    assert found["key"] is None and not found["cached"]
    assert found["changes"][0]["new"] == "not computed yet"


def test_the_edited_module_and_the_changed_library_are_named(context, monkeypatch):
    context.run(make, PARAMS, {})
    real, versions = step_module.module_digests, step_module.versions()
    monkeypatch.setattr(step_module, "module_digests", lambda names: {**real(names), __name__: "edited"})
    monkeypatch.setattr(step_module, "versions", lambda: {**versions, "torch": "99.0"})
    found = explained(context, make, PARAMS, {})
    assert [(one["what"], one["where"]) for one in found["changes"]] == [
        ("source", __name__),
        ("version", "torch"),
    ]
    assert f"source {__name__}: edited; version torch: {versions['torch']} -> 99.0" in found["reason"]


def test_an_altered_result_is_reported_and_left_where_it_is(context):
    artifact = context.run(make, PARAMS, {})
    (artifact.path / "stray").write_text("x")
    found = explained(context, make, PARAMS, {})
    assert not found["cached"] and "stray was added" in found["reason"]
    assert artifact.path.is_dir()


def test_flat_names_every_leaf_and_keeps_empty_ones():
    assert flat({"a": {"b": [1, {"c": 2}], "d": {}}, "e": []}) == {
        "a.b[0]": 1,
        "a.b[1].c": 2,
        "a.d": {},
        "e": [],
    }


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [("absent", "f00", "newly used"), ("f00", "absent", "no longer used"), ("f00", "ba5", "edited")],
)
def test_a_source_change_is_said_in_words(old, new, text):
    assert describe({"what": "source", "where": "m", "old": old, "new": new}) == f"source m: {text}"
