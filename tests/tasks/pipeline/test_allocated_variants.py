"""Variants with an allocation, through the whole chain of steps on a tiny real model."""

import itertools
import json
from pathlib import Path

import pytest
import torch
import yaml
from pipelines import computed, edit, pipeline_of
from safetensors.torch import load_file

from flows.actions.inspect import explain_variant, lineage_of
from pruning_core.budget.counts import budget_of
from pruning_core.errors import ComputationError, InputError
from tasks.lineage.collect_record import small_files, variant_record
from tasks.report.drawings import allocation_chart, draw_allocation
from tasks.steps import assemble
from tasks.steps.allocation import load_shares
from tasks.tracking.runs import find_runs, track_variant
from tasks.workspace.workspace import Workspace

HUTCHINSON = {"name": "hutchinson", "min_probes": 2, "max_probes": 2, "sequences": 2}
ALLOCATIONS = {
    "uniform": {"name": "uniform"},
    "fisher": {"name": "by_sensitivity", "sensitivity": {"name": "fisher"}},
    "loss": {"name": "by_sensitivity", "sensitivity": {"name": "leave_one_out"}, "granularity": "block"},
    "spectral": {"name": "by_sensitivity", "sensitivity": {"name": "spectral"}, "scale": "linear"},
    # Random weights have few scores beyond five times their mean, the default.
    "owl": {"name": "owl", "multiple": 2.0},
    "ranks": {"name": "rank_interval", "sensitivity": HUTCHINSON},
    "knapsack": {"name": "knapsack", "errors": "output"},
    "knapsack-relative": {"name": "knapsack", "errors": "relative_output", "granularity": "block"},
    "knapsack-fisher": {"name": "knapsack", "levels": 4},
}
EIGHT = {"name": "n_of_m", "n": 2, "m": 8}


def give(root: Path, variant: str, **keys) -> None:
    """Change keys of a variant of params.yaml; None removes one."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    recipe = params["variants"][variant] | keys
    params["variants"][variant] = {key: value for key, value in recipe.items() if value is not None}
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def zeros_of(model) -> dict[str, int]:
    weights = load_file(model.path / "model.safetensors")
    return {layer["name"]: int((weights[f"{layer['name']}.weight"] == 0).sum()) for layer in model.facts["layers"]}


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_a_variant_of_every_allocation_meets_its_budget_to_the_weight(workspace_root: Path, name: str):
    give(workspace_root, "sparsegpt-50", sparsity=0.6013, allocation=ALLOCATIONS[name])
    pipeline, _ = pipeline_of(workspace_root)
    model = pipeline.model("sparsegpt-50")
    zeros = zeros_of(model)
    assert sum(zeros.values()) == model.facts["parameters"]["removed"] == budget_of(3840, 0.6013) == 2309
    assert zeros == load_shares(pipeline.allocation("sparsegpt-50")).values
    assert model.facts["allocation"]["sparsity"] == 2309 / 3840
    assert model.manifest["inputs"]["allocation"]["digest"] == pipeline.allocation("sparsegpt-50").digest


@pytest.mark.parametrize("name", ["uniform", "fisher", "owl", "knapsack", "knapsack-fisher"])
def test_levels_of_n_of_m_mix_at_the_same_budget(workspace_root: Path, name: str):
    spec = {key: value for key, value in ALLOCATIONS[name].items() if key != "levels"}
    # A level is an eighth of a matrix.
    spec |= {"strength": 0.25} if name in ("fisher", "owl") else {}
    give(workspace_root, "shared-2of4", pattern=EIGHT, allocation=spec)
    pipeline, _ = pipeline_of(workspace_root)
    model = pipeline.model("shared-2of4")
    kept = load_shares(pipeline.allocation("shared-2of4")).values
    masks = load_file(model.path / "masks.safetensors")
    for layer in model.facts["layers"]:
        bits = masks[layer["name"]].unsqueeze(-1).bitwise_right_shift(torch.arange(8, dtype=torch.uint8)) & 1
        assert bits.sum(dim=-1).unique().tolist() == [kept[layer["name"]]]
    excess = model.facts["parameters"]["removed"] - 3840 * 6 // 8
    # A level of the smallest matrix, 8 x 16, is 16 weights.
    assert 0 <= excess < 16
    assert len(set(kept.values())) > 1 or name == "uniform"


@pytest.mark.parametrize("variant", ["sparsegpt-50", "magnitude-50"])
def test_a_block_whose_shares_are_those_of_the_method_is_the_same_block(workspace_root: Path, variant: str):
    pipeline, _ = pipeline_of(workspace_root)
    plain = pipeline.model(variant)
    give(workspace_root, variant, allocation={"name": "uniform"})
    pipeline, seen = pipeline_of(workspace_root)
    model = pipeline.model(variant)
    assert computed(seen) == [f"{variant} allocation", f"{variant} model"]
    blocks = {key: entry for key, entry in plain.manifest["inputs"].items() if key.startswith("block-")}
    assert blocks.items() <= model.manifest["inputs"].items()


def test_another_strength_measures_nothing_again(workspace_root: Path):
    give(workspace_root, "sparsegpt-50", allocation=ALLOCATIONS["fisher"])
    pipeline_of(workspace_root)[0].model("sparsegpt-50")
    give(workspace_root, "sparsegpt-50", allocation=ALLOCATIONS["fisher"] | {"strength": 0.2})
    pipeline, seen = pipeline_of(workspace_root)
    pipeline.model("sparsegpt-50")
    assert "fisher sensitivity" not in computed(seen) and "sparsegpt-50 allocation" in computed(seen)
    assert "sparsegpt-50 block 0" in computed(seen)


def test_the_second_time_nothing_is_computed(workspace_root: Path):
    give(workspace_root, "sparsegpt-50", allocation=ALLOCATIONS["knapsack-fisher"])
    pipeline_of(workspace_root)[0].quality("sparsegpt-50")
    pipeline, seen = pipeline_of(workspace_root)
    pipeline.quality("sparsegpt-50")
    assert len(seen.records) > 8 and computed(seen) == []


def test_the_table_says_what_becomes_of_each_matrix_and_the_plot_shows_it(workspace_root: Path):
    give(workspace_root, "sparsegpt-50", allocation=ALLOCATIONS["fisher"])
    pipeline, _ = pipeline_of(workspace_root)
    decided = pipeline.allocation("sparsegpt-50")
    table = json.loads((decided.path / "shares.json").read_text())
    sensitivity = pipeline.context.store.find(decided.manifest["inputs"]["sensitivity"]["key"])
    profile = json.loads((sensitivity.path / "profile.json").read_text())
    assert [row["name"] for row in table["matrices"]] == [matrix.name for matrix in pipeline.matrices]
    for row in table["matrices"]:
        assert row["removed"] == table["values"][row["name"]]
        assert row["sensitivity"] == profile["matrices"][row["name"]]
    ordered = sorted(table["matrices"], key=lambda row: row["sensitivity"])
    # The budget may cost a matrix one weight more or less.
    assert all(a["sparsity"] > b["sparsity"] - 1 / 128 for a, b in itertools.pairwise(ordered))
    assert {file.name for file in decided.path.iterdir()} == {"manifest.json", "run.json", "shares.json"}
    shown = allocation_chart(decided.facts, table["matrices"]).axes
    assert [len(axes.get_legend().get_texts()) for axes in shown] == [7, 7]
    for axes, what in zip(shown, ("sparsity", "sensitivity"), strict=True):
        lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
        for row in table["matrices"]:
            assert [row["block"], row[what]] in lines[row["name"].rpartition(".")[2]]
    assert "target 0.5" in draw_allocation(decided.path)


def test_the_published_ranks_miss_the_target_and_say_by_how_much(workspace_root: Path):
    sensitivity = {"name": "hutchinson", "form": "mixgpt_code"}
    spec = {"name": "rank_interval", "form": "mixgpt_code", "sensitivity": sensitivity}
    give(workspace_root, "sparsegpt-50", allocation=spec)
    pipeline, _ = pipeline_of(workspace_root)
    model = pipeline.model("sparsegpt-50")
    facts = model.facts["allocation"]
    assert facts["target"] == 0.5 and facts["sparsity"] == model.facts["sparsity"]["prunable"]
    assert sum(zeros_of(model).values()) == facts["removed"] != 1920
    # The weights of norms take part in the ranking, as in the published code.
    key = pipeline.allocation("sparsegpt-50").manifest["inputs"]["sensitivity"]["key"]
    others = pipeline.context.store.find(key).facts["details"]["others"]
    assert len(others) == 4 and all("norm" in name for name in others)


def test_a_model_that_lost_other_weights_than_allocated_is_refused(workspace_root: Path, monkeypatch):
    give(workspace_root, "magnitude-50", allocation={"name": "uniform"})
    pipeline, _ = pipeline_of(workspace_root)
    counted = assemble.counted
    monkeypatch.setattr(assemble, "counted", lambda *given: counted(*given) | {"parameters": {"removed": 1919}})
    with pytest.raises(ComputationError, match="1919 weights were removed where 1920 were allocated"):
        pipeline.model("magnitude-50")


def test_explain_tells_an_allocation_that_is_not_computed_yet(workspace_root: Path, monkeypatch):
    monkeypatch.chdir(workspace_root)
    give(workspace_root, "sparsegpt-50", allocation=ALLOCATIONS["owl"])
    steps = {step["label"]: step for step in explain_variant("sparsegpt-50", None)}
    assert {"statistics of block 1", "outliers sensitivity", "sparsegpt-50 allocation"} <= steps.keys()
    assert not any(step["cached"] for step in steps.values())
    pipeline_of(workspace_root)[0].quality("sparsegpt-50")
    assert all(step["cached"] for step in explain_variant("sparsegpt-50", None))
    give(workspace_root, "sparsegpt-50", allocation=ALLOCATIONS["owl"] | {"strength": 0.2})
    steps = {step["label"]: step for step in explain_variant("sparsegpt-50", None)}
    assert steps["outliers sensitivity"]["cached"] and not steps["sparsegpt-50 allocation"]["cached"]
    reason = steps["sparsegpt-50 allocation"]["reason"]
    assert reason == "1 changed: params allocation.strength: absent -> 0.2"
    assert "allocation: absent -> not computed yet" in steps["sparsegpt-50 block 0"]["reason"]


def test_lineage_and_the_run_lead_back_to_the_allocation_and_show_it(workspace_root: Path, monkeypatch):
    monkeypatch.chdir(workspace_root)
    give(workspace_root, "magnitude-50", allocation=ALLOCATIONS["fisher"])
    pipeline, _ = pipeline_of(workspace_root)
    pipeline.quality("magnitude-50")
    decided = pipeline.allocation("magnitude-50")
    chain = {link["what"]: link["digest"] for link in lineage_of("magnitude-50", None)["chain"]}
    assert chain["allocation"] == decided.digest and {"sensitivity", "calibration tokens"} <= chain.keys()
    record = variant_record(Workspace.open(workspace_root), pipeline, "magnitude-50", [])
    files = small_files(pipeline, "magnitude-50")
    assert {file.name for file in files} == {"profile.json", "shares.json"}
    run = track_variant(workspace_root, record, files)
    [found] = find_runs(workspace_root)
    assert found["run_id"] == run.run_id
    assert found["tags"]["parent.allocation.digest"] == decided.digest
    assert found["tags"]["parent.sensitivity.digest"] == chain["sensitivity"]
    assert "Allocation by_sensitivity: 50.0000% removed" in found["tags"]["mlflow.note.content"]
    assert found["params"]["allocation.sensitivity"] == "fisher"
    shown = {path.name for path in Path(found["artifact_uri"].removeprefix("file://")).rglob("*.svg")}
    assert shown == {"allocation.svg", "profile.svg", "layers.svg"}


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"allocation": {"name": "by_sensitivity", "low": 0.6}}, "allocation: no allocation between 0.6"),
        ({"allocation": {"name": "by_sensitivity", "sensitivity": {"name": "fischer"}}}, "did you mean 'fisher'"),
        ({"allocation": {"name": "owl"}, "sparsity": 0.0}, "nothing to allocate"),
        ({"allocation": {"name": "knapsack", "step": 100000}}, "100000"),
    ],
)
def test_wrong_allocations_are_told_before_anything_is_stored(workspace_root: Path, keys, sentence: str):
    give(workspace_root, "sparsegpt-50", **keys)
    with pytest.raises(InputError, match=sentence):
        pipeline_of(workspace_root)[0].allocation("sparsegpt-50")
    assert not list((workspace_root / ".espalier").glob("objects/*"))


def test_a_variant_without_an_allocation_has_none(workspace_root: Path):
    edit(workspace_root, "sparsegpt-50", "sparsity", 0.3)
    pipeline, _ = pipeline_of(workspace_root)
    assert pipeline.allocation("sparsegpt-50") is None
    assert "allocation" not in pipeline.model("sparsegpt-50").facts
