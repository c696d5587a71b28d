"""The section on recovery, on a tiny model: what is trained, what it is measured by, and who chooses the rates."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks.quality.entries import PAPERS
from benchmarks.recovery import __main__
from benchmarks.recovery.entries import bases
from benchmarks.recovery.page import closed
from benchmarks.recovery.trainings import TRAININGS, Scan
from pruning_core.errors import InputError
from pruning_core.settings.recipe import parse_recipe
from tasks.workspace.params import read_params

TOY = {"steps": 6, "batch": 2, "warmup": 0, "validate_every": 3, "data": {"sequences": 12, "validation": 3}}
BASES = bases(read_params(PAPERS)["variants"])
RATES = {name: Scan("x", {1e-3: 1.0}) for name in TRAININGS}


@pytest.fixture
def run(run_benchmark):
    """run(*arguments) in a workspace with a tiny model; returns the section and its figures."""

    def start(*arguments: str):
        sections, folder = run_benchmark(__main__.app, "--training", json.dumps(TOY), *arguments)
        return sections["recovery"], json.loads((folder / "page-recovery.json").read_text())

    return start


def test_every_way_is_a_recipe_of_equal_length_and_one_name_is_one_variant():
    names = [entry.name for base in BASES for entry in base.entries((0, 1), RATES, {}).values()]
    assert len(names) == len({*names})
    for base in BASES:
        entries = base.entries((0,), RATES, {})
        recipes = [parse_recipe(entry.name, entry.recipe) for entry in entries.values()]
        assert recipes[0].recovery is None
        assert len({recipe.recovery.method.batch for recipe in recipes[1:]}) == 1
        assert {recipe.recovery.data.overlap for recipe in recipes[1:]} == {"drop"}


def test_models_under_masks_are_trained_at_the_best_rate_and_their_zeros_stay(run, workspace_root: Path):
    text, facts = run("--only", "magnitude-70", "--seeds", "1")
    (model,) = facts["models"]
    before, *ways = model["ways"]
    assert [way["name"] for way in ways] == ["sparse-finetune", "sparse-finetune-distilled", "cubic", "geometric"]
    for way in ways:
        shares = [
            1 - run["above_dense"] / old["above_dense"] for run, old in zip(way["runs"], before["runs"], strict=True)
        ]
        assert closed(way, before) == pytest.approx(shares)
        line = next(line for line in text.splitlines() if line.startswith(f"| {way['title']} |"))
        assert f"| {100 * shares[0]:.1f} % |" in line
        for run_, old in zip(way["runs"], before["runs"], strict=True):
            assert run_["zeros"] >= run_["removed"]["after"] / _prunable(workspace_root) == pytest.approx(0.7, abs=2e-3)
            assert run_["steps"] == 6 and [point["step"] for point in run_["curve"]] == [0, 3, 6]
            assert old["seed"] == run_["seed"]
        # Distilled trainings and those in rounds take the rate over.
        tried = {one["rate"]: one["validation_loss"] for one in facts["rates"]["sparse-finetune"]["tried"]}
        assert {run_["rate"] for run_ in way["runs"]} == {min(tried, key=tried.get)} and len(tried) > 2
    assert "in 2 of 2 trainings under a mask" in text


def _prunable(root: Path) -> int:
    weights = load_file(root / "tiny" / "model.safetensors")
    return sum(one.numel() for name, one in weights.items() if ".layers." in name and one.dim() == 2)


def test_a_smaller_model_stays_as_small_when_it_is_trained(run, tiny_llama, workspace_root: Path):
    tiny_llama(intermediate_size=64, num_key_value_heads=4).save_pretrained(workspace_root / "tiny")
    text, facts = run("--only", "column-50", "--seeds", "1")
    (model,) = facts["models"]
    shares = {run["smaller"] for way in model["ways"] for run in way["runs"]}
    assert len(shares) == 1 and 0.45 < shares.pop() < 0.55
    assert {"lora", "lora-distilled", "block-reconstruction"} <= {way["name"] for way in model["ways"]}
    assert "trainings under a mask" in text
    tried = {one["rate"]: one["validation_loss"] for one in facts["rates"]["lora"]["tried"]}
    (judged,) = next(way["runs"] for way in model["ways"] if way["name"] == "lora")
    # The training that won the scan is the one that is judged.
    assert judged["validation_loss"]["after"] == min(tried.values()) == tried[judged["rate"]]


def test_an_unknown_model_is_told(run):
    with pytest.raises(InputError, match="no model begins with"):
        run("--only", "sparsegpt-99")
