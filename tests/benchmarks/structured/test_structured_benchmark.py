"""The section on structured pruning, on a tiny model, and what it says of fused estimates."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.common.sections import sections
from benchmarks.quality.entries import Entry
from benchmarks.quality.figures import Figures
from benchmarks.recovery.trainings import TRAININGS, Scan
from benchmarks.structured import __main__, accuracy, speed
from benchmarks.structured.entries import Way, ways
from benchmarks.structured.fusion import claim, fusions
from pruning_core.errors import InputError
from pruning_core.settings.recipe import parse_recipe

TOY = {"steps": 4, "batch": 2, "warmup": 0, "validate_every": 2, "data": {"sequences": 12, "validation": 3}}


@pytest.fixture
def run(tiny_llama, short_workspace: Path, run_benchmark):
    """run(*arguments) in a workspace with a tiny model; returns the section and its figures."""
    tiny_llama(intermediate_size=64, num_key_value_heads=4).save_pretrained(short_workspace / "tiny")

    def start(*arguments: str):
        texts, folder = run_benchmark(__main__.app, "--training", json.dumps(TOY), *arguments)
        return texts["structured"], json.loads((folder / "page-structured.json").read_text())

    return start


def test_every_way_is_a_recipe_and_one_name_is_one_variant():
    rates = {name: Scan("x", {1e-3: 1.0}) for name in TRAININGS}
    entries = [way.entry(seed, rates, {}) for way in ways() for seed in (0, 1)]
    assert len({entry.name for entry in entries}) == len(entries) == 2 * len({*ways()})
    for entry in entries:
        recipe = parse_recipe(entry.name, entry.recipe)
        assert recipe.structured.ranking.of == "model"
    draws = {entry.recipe["structured"]["importance"].get("seed") for entry in entries if "random" in entry.name}
    assert draws == {0, 1}


def test_the_section_has_what_the_saved_models_give(run, workspace_root: Path):
    text, facts = run("--only", "random", "--ratio", "0.4", "--seeds", "2")
    bare, static, tuned = facts["ways"]
    assert [way["form"] for way in facts["ways"]] == ["bare", "static", "static"] and tuned["training"] == "lora"
    above = [run["above_dense"] for run in bare["runs"]]
    assert f"| random | {sum(run['perplexity'] for run in bare['runs']) / 2:.2f} [" in text
    assert f"| **{sum(above) / 2:+.4f} ± " in text
    change = sum(run["above_dense"] for run in static["runs"]) / 2 - sum(above) / 2
    assert static["above_bare"]["mean"] == pytest.approx(change)
    for run_ in (run for way in facts["ways"] for run in way["runs"]):
        assert 0.3 < run_["smaller"] < 0.5
        assert run_["bytes"] < facts["dense"]["file_bytes"]
    # Two draws of what is random are two models.
    assert len(set(above)) == 2
    for run_, before in zip(tuned["runs"], static["runs"], strict=True):
        assert run_["steps"] == 4 and run_["smaller"] == before["smaller"]
    assert "Fine and coarse" not in text


def test_a_second_run_computes_nothing_and_writes_the_same(run, workspace_root: Path):
    first = run("--only", "magnitude", "--ratio", "0.4", "--seeds", "1")
    objects = sorted((workspace_root / ".espalier" / "objects").iterdir())
    assert run("--only", "magnitude", "--ratio", "0.4", "--seeds", "1") == first
    assert sorted((workspace_root / ".espalier" / "objects").iterdir()) == objects
    assert ".espalier" not in first[0]


def figures(*losses: float) -> Figures:
    values = torch.tensor(losses, dtype=torch.float64)
    return Figures(Entry("x", "x", {}), values, float(values.mean().exp()), None, None, 0.0, 16.0, {})


def test_a_fusion_is_held_against_the_better_part_of_each_seed():
    figures_of = {
        Way("fine", 0.2): {0: figures(1.0, 1.2, 1.1), 1: figures(2.0, 2.2, 2.1)},
        Way("coarse", 0.2): {0: figures(1.5, 1.7, 1.6), 1: figures(1.5, 1.7, 1.6)},
        Way("half", 0.2): {0: figures(0.9, 1.11, 1.0), 1: figures(1.6, 1.79, 1.7)},
        # Without both parts there is nothing to hold it against.
        Way("half", 0.5): {0: figures(1.0, 1.0, 1.0)},
    }
    (fusion,) = fusions(figures_of)
    assert [seed["better_part"] for seed in fusion["seeds"]] == ["fine", "coarse"]
    assert [seed["verdict"] for seed in fusion["seeds"]] == ["better", "worse"]
    assert [seed["mean"] for seed in fusion["seeds"]] == pytest.approx([-0.29 / 3, 0.29 / 3])
    assert fusion["seeds"][1]["above_other_part"] == pytest.approx((1.6 + 1.79 + 1.7 - 6.3) / 3)
    assert claim(fusion["seeds"]) == "open" and claim(fusion["seeds"][:1]) == "better"


def test_fused_estimates_are_judged_on_the_page(run):
    text, facts = run("--only", "fine", "--only", "coarse", "--only", "prior", "--ratio", "0.4", "--seeds", "1")
    losses = {(way["importance"], way["mode"], way["form"]): way["runs"][0]["above_dense"] for way in facts["ways"]}
    judged = [one for one in facts["fusions"] if one["form"] == "bare"]
    assert [one["fusion"] for one in judged] == ["prior"]
    (seed,) = judged[0]["seeds"]
    better = min(losses[part, "uniform", "bare"] for part in ("fine", "coarse"))
    assert seed["mean"] == pytest.approx(losses["prior", "uniform", "bare"] - better)
    assert "**fused by prior, against the better of its parts**: 40 %, survivors as they are" in text
    assert "## Widths that differ from block to block" in text


def test_an_unknown_importance_is_told(run):
    with pytest.raises(InputError, match="no importance begins with"):
        run("--only", "taylro")


def test_speeds_are_told_beside_the_dense_model(run, workspace_root: Path):
    page = workspace_root / "pages" / "page.md"
    given = ["--settings", "short.yaml", "--out", str(page), "--ratio", "0.4", "--rounds", "2", "--prompt", "8"]
    done = CliRunner().invoke(speed.app, [*given, "--generated", "3"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    facts = json.loads((page.parent / "page-structured-speed.json").read_text())
    assert [model["name"] for model in facts["models"]] == [
        "dense",
        "taylor-first-40-uniform-static",
        "taylor-first-40-mixed-static",
    ]
    text = sections(page.read_text())["structured-speed"]
    dense, smaller, _ = facts["models"]
    assert smaller["file_bytes"] < dense["file_bytes"] and len(smaller["rates"]) == 2 * 2
    shares = sorted(
        own["decode"] / base["decode"]
        for own, base in zip(smaller["rates"], dense["rates"], strict=True)
        if own["batch"] == 16
    )
    line = [line for line in text.splitlines() if line.startswith("| 40 %, equal")][1]
    assert line.endswith(f"| {sum(shares) / 2:.2f} ({shares[0]:.2f} to {shares[1]:.2f}) |")


def test_accuracies_are_told_beside_the_dense_model(run, workspace_root: Path):
    page = workspace_root / "pages" / "page.md"
    given = ["--settings", "short.yaml", "--out", str(page), "--only", "random", "--ratio", "0.4"]
    given += ["--seeds", "1", "--task", "{items: 5, context: 5, continuation: 3}", "--training", json.dumps(TOY)]
    done = CliRunner().invoke(accuracy.app, given, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    facts = json.loads((page.parent / "page-structured-accuracy.json").read_text())
    text = sections(page.read_text())["structured-accuracy"]
    assert facts["dense"]["items"] == 5 and "5 items of the evaluation text: 5 tokens" in text
    for way in facts["ways"]:
        (answers,) = way["runs"]
        assert answers["to_dense"]["accuracy"]["difference"] == pytest.approx(
            answers["accuracy"] - facts["dense"]["accuracy"]
        )
        assert f"| {100 * answers['accuracy']:.1f} |" in text
    assert len(facts["ways"]) == 3 and "then LoRA" in text
