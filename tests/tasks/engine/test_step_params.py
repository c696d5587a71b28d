"""Params of steps: typed in the code, plain JSON everywhere else."""

import importlib
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import pytest

from pruning_core.errors import InputError
from tasks.engine.params import as_json, of_json
from tasks.engine.step import Step, step


@dataclass(frozen=True, kw_only=True)
class SomeParams:
    method: dict
    m: int | None
    shares: dict | None = None


@step("some", unkeyed=("shares",))
def some(params: SomeParams, inputs, out, context):
    params.method.clear()
    return {"m": params.m}


def test_an_optional_param_is_absent_where_it_is_not_given_and_any_other_is_there():
    assert as_json(SomeParams(method={}, m=None)) == {"method": {}, "m": None}
    assert as_json(SomeParams(method={}, m=4, shares={"a": [1]})) == {"method": {}, "m": 4, "shares": {"a": [1]}}


def test_params_come_back_from_json_as_they_were():
    given = SomeParams(method={"name": "wanda"}, m=4)
    assert of_json(SomeParams, as_json(given)) == given
    assert of_json(None, {"n": 1}) == {"n": 1}


def test_a_call_of_the_type_and_one_of_the_same_mapping_have_one_key():
    given = SomeParams(method={"name": "wanda"}, m=4)
    assert some.call(given, {}).key == some.call({"method": {"name": "wanda"}, "m": 4}, {}).key
    assert some.call(given, {}).ingredients["params"] == {"method": {"name": "wanda"}, "m": 4}


def test_a_step_is_given_a_copy_of_its_own(context):
    given = SomeParams(method={"name": "wanda"}, m=4)
    assert context.run(some, given, {}).facts == {"m": 4}
    assert given.method == {"name": "wanda"}


def test_a_key_that_the_step_does_not_know_or_lacks_is_refused_before_anything_runs(context):
    for wrong in ({"method": {}, "m": 4, "n": 2}, {"method": {}}):
        with pytest.raises(TypeError, match=r"'n'|'m'"):
            context.run(some, wrong, {})
    with pytest.raises(InputError, match=r"params\.method\.where"):
        context.run(some, SomeParams(method={"where": Path("x")}, m=None), {})
    assert not context.store.root.exists()


def test_every_step_says_in_a_frozen_dataclass_what_its_params_are():
    folder = Path(__file__).resolve().parents[3] / "tasks" / "steps"
    modules = [importlib.import_module(f"tasks.steps.{file.stem}") for file in sorted(folder.glob("*.py"))]
    steps = {one for module in modules for one in vars(module).values() if isinstance(one, Step)}
    assert len(steps) == 20
    for one in steps:
        assert is_dataclass(one.params) and one.params.__dataclass_params__.frozen, one.name
        assert {field.name for field in fields(one.params)} >= set(one.unkeyed), one.name
