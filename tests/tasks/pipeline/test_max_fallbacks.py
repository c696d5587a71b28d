"""A variant whose Hessians cannot all be factored: stopped, or let through, over the whole chain of steps."""

import json
from pathlib import Path

import pytest
import yaml
from pipelines import pipeline_of

from flows.actions.inspect import explain_variant
from pruning_core.compress import factor
from pruning_core.errors import ComputationError
from tasks.engine.step_log import CACHED, StepLog
from tasks.pipeline.variant import Pipeline

DOWN = [f"model.layers.{index}.mlp.down_proj" for index in range(2)]


@pytest.fixture
def failing(monkeypatch) -> None:
    """No factor for the matrices of 24 inputs, one in each of the two blocks."""
    real = factor._inverse_upper

    def refuse(prepared, added, dtype):
        return None if len(prepared) == 24 else real(prepared, added, dtype)

    monkeypatch.setattr(factor, "_inverse_upper", refuse)


def attempt(root: Path, *overrides: str) -> tuple[Pipeline, StepLog]:
    return pipeline_of(root, list(overrides))


def allow(count: int) -> str:
    return f"variants.sparsegpt-50.max_fallbacks={count}"


@pytest.mark.usefixtures("failing")
def test_by_default_the_first_failure_stops_the_run_and_names_the_layer(workspace_root: Path):
    pipeline, seen = attempt(workspace_root)
    with pytest.raises(ComputationError, match=f"^{DOWN[0]}: .* set max_fallbacks to 1 or more"):
        pipeline.model("sparsegpt-50")
    assert [record["label"] for record in seen.records][-1] == "sparsegpt-50 block 0"


@pytest.mark.usefixtures("failing")
def test_the_number_counts_over_all_blocks_of_the_variant_and_raising_it_goes_on_from_there(workspace_root: Path):
    pipeline, _ = attempt(workspace_root, allow(1))
    with pytest.raises(ComputationError, match=rf"^{DOWN[0]}, {DOWN[1]}: .* to 2 or more \(it is 1\)"):
        pipeline.model("sparsegpt-50")
    pipeline, seen = attempt(workspace_root, allow(2))
    model = pipeline.model("sparsegpt-50")
    computed = [record["label"] for record in seen.records if record["state"] != CACHED]
    assert computed == ["sparsegpt-50 model"]
    failed = [entry["layer"] for entry in model.facts["ledger"] if entry["event"] == "factor_failed"]
    assert failed == DOWN
    assert model.facts["sparsity"]["prunable"] == 0.5


@pytest.mark.usefixtures("failing")
def test_shared_statistics_are_judged_alike(workspace_root: Path):
    pipeline, _ = attempt(workspace_root, "variants.shared-2of4.max_fallbacks=1")
    with pytest.raises(ComputationError, match="max_fallbacks to 2 or more"):
        pipeline.model("shared-2of4")


@pytest.mark.usefixtures("failing")
def test_explaining_a_stopped_variant_shows_its_steps(workspace_root: Path, monkeypatch):
    with pytest.raises(ComputationError):
        attempt(workspace_root)[0].model("sparsegpt-50")
    monkeypatch.chdir(workspace_root)
    steps = {step["label"]: step["cached"] for step in explain_variant("sparsegpt-50", None)}
    assert steps["sparsegpt-50 block 0"] and not steps["sparsegpt-50 block 1"]


def test_what_is_allowed_is_in_no_key_but_that_of_the_finished_variant(workspace_root: Path):
    before = attempt(workspace_root)[0].model("sparsegpt-50")
    after = attempt(workspace_root, allow(3))[0].model("sparsegpt-50")
    assert before.key != after.key
    assert before.manifest["inputs"] == after.manifest["inputs"]
    assert after.facts["recipe"]["max_fallbacks"] == 3
    written = yaml.safe_load((workspace_root / "params.yaml").read_text())["variants"]["sparsegpt-50"]
    assert json.loads(json.dumps(before.facts["recipe"])) == written
