"""The two steps of structured pruning on a tiny model: from scores to a directory that every loader reads."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from structured_steps import MIXED, UNIFORM, Steps
from transformers import AutoModelForCausalLM

from pruning_core.errors import InputError
from pruning_core.source import load_model, resolve
from pruning_core.structured.kept_groups import KeptGroups
from tasks.steps.evaluate import evaluate

FORMS = [None, {"form": "static"}, {"form": "absorbing"}]


@pytest.fixture
def steps(workspace_root: Path) -> Steps:
    return Steps(workspace_root)


@pytest.mark.parametrize("ranking", [UNIFORM, MIXED], ids=["uniform", "heterogeneous"])
@pytest.mark.parametrize("reconstruction", FORMS, ids=["bare", "static", "absorbing"])
def test_a_pruned_model_is_smaller_loads_and_can_be_evaluated(steps: Steps, ranking: dict, reconstruction: dict | None):
    model = steps.model(ranking, reconstruction)
    facts, stored = model.facts, load_file(model.path / "model.safetensors")
    plan = KeptGroups.of_facts(json.loads((model.path / "plan.json").read_text()))
    assert facts["parameters"]["stored"] == sum(tensor.numel() for tensor in stored.values()) == plan.after
    assert (
        facts["parameters"]["all"] == plan.before and facts["sparsity"]["whole_model"] == 1 - plan.after / plan.before
    )
    for layer in facts["layers"]:
        assert list(stored[layer["stored"]].shape) == [layer["rows"], layer["columns"]]
        assert layer["removed"] == layer["dense_rows"] * layer["dense_columns"] - layer["rows"] * layer["columns"]
    assert facts["size_bytes"]["stored"] == sum(tensor.nbytes for tensor in stored.values())
    assert f"{plan.after:,}" in (model.path / "plan.txt").read_text()
    assert bool(facts["reconstruction"]) == (reconstruction is not None) and not facts["ledger"]
    load_model(model.path)
    if ranking is UNIFORM:
        AutoModelForCausalLM.from_pretrained(model.path)
    assert resolve(str(model.path)).digest != resolve(str(steps.pipeline.source.path)).digest
    inputs = {"model": model, "tokens": steps.pipeline.evaluation, "source": steps.pipeline.source}
    inputs |= {"baseline": steps.pipeline.quality("dense")}
    done = steps.run(evaluate, {"batch": 8, "trust_remote_code": False}, inputs, "evaluation")
    assert done.facts["perplexity"] > 1 and done.facts["kl_to_dense"] > 0


def test_another_ratio_shares_the_scores_and_the_same_recipe_computes_nothing(steps: Steps, workspace_root: Path):
    first = steps.model(UNIFORM)
    steps.model(UNIFORM | {"ratio": 0.4})
    assert steps.computed().count("scores") == 1 and steps.computed().count("model") == 2
    later = Steps(workspace_root)
    assert later.model(UNIFORM).digest == first.digest and later.computed() == []


def test_a_reconstruction_changes_only_what_reads_the_survivors(steps: Steps):
    half = UNIFORM | {"ratio": 0.4}
    bare, solved = (load_file(steps.model(half, one).path / "model.safetensors") for one in (None, {"form": "static"}))
    changed = {name for name in bare if not torch.equal(bare[name], solved[name])}
    assert changed == {name for name in bare if name.endswith(("down_proj.weight", "o_proj.weight"))}


def test_the_scores_come_with_a_table_of_the_groups(steps: Steps):
    scores = steps.scores()
    stored = load_file(scores.path / "scores.safetensors")
    assert {name: len(values) for name, values in stored.items()} == {
        "0.mlp": 24,
        "0.attention": 2,
        "1.mlp": 24,
        "1.attention": 2,
    }
    table = (scores.path / "groups.txt").read_text()
    assert "2 q_proj.weight rows" not in table and "8 q_proj.weight rows, 4 k_proj.weight rows" in table


@pytest.mark.parametrize(
    ("ranking", "sentence"),
    [
        (UNIFORM | {"ratio": 0.99}, "would empty a block"),
        (UNIFORM | {"ratios": 0.2}, "ranking.ratios is not a known key"),
        ({"ratio": "20%"}, "where a number is needed"),
    ],
)
def test_a_wrong_ranking_is_one_sentence(steps: Steps, ranking: dict, sentence: str):
    with pytest.raises(InputError, match=sentence):
        steps.model(ranking)


def test_a_wrong_reconstruction_and_an_unknown_importance_are_one_sentence(steps: Steps):
    with pytest.raises(InputError, match=r"reconstruction\.form"):
        steps.model(UNIFORM, {"form": "dynamic"})
    with pytest.raises(InputError, match="did you mean 'column'"):
        steps.scores("colum")
