"""`espalier plan` of structured variants and of recoveries, and such runs refused because they cannot fit."""

import json
from pathlib import Path

import pytest
from plan_commands import command

from flows.actions.dvc_stage import run_stage
from flows.plan.advice import advice
from flows.plan.fit import _planner
from pruning_core.errors import InputError
from tasks.machine import free_resources
from tasks.workspace.workspace import Workspace

SIZES = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4, "num_attention_heads": 16}
COLUMN = {"importance": {"name": "column"}, "ratio": 0.25}
REFITTED = COLUMN | {"reconstruction": {"form": "absorbing"}}
MAGNITUDE = {"saliency": {"name": "magnitude"}, "pattern": {"name": "unstructured", "scope": "row"}, "sparsity": 0.5}
VARIANTS = {
    "taylor": {"structured": COLUMN | {"importance": {"name": "taylor"}}},
    "column": {"structured": COLUMN},
    "refitted": {"structured": REFITTED},
    "lora": {"structured": REFITTED, "recovery": {"name": "lora", "warmup": 0}},
    "finetuned": MAGNITUDE | {"recovery": {"name": "sparse_finetune", "distillation": 1.0, "keep": "best"}},
    "masked-lora": MAGNITUDE | {"recovery": {"name": "masked_lora"}},
    "blocks": MAGNITUDE | {"recovery": {"name": "block_reconstruction"}},
    "rounds": {"recovery": {"name": "iterative_magnitude", "sparsity": 0.5, "rounds": 2}},
}


@pytest.fixture
def large(without_weights) -> Path:
    """A workspace with the config of 0.1 billion parameters."""
    return without_weights(SIZES, 512, VARIANTS)


@pytest.mark.parametrize(
    ("variant", "phases"),
    [
        ("lora", ["importance", "least squares", "surgery", "validation", "recovery"]),
        ("rounds", ["validation", "recovery"]),
    ],
)
def test_a_plan_shows_all_phases_and_kinds_of_work(large: Path, monkeypatch, capsys, variant: str, phases: list[str]):
    assert command("plan", variant, "--json", "--rate", "1e12", monkeypatch=monkeypatch) == 0
    estimate = json.loads(capsys.readouterr().out)
    assert estimate["ram"].keys() == {*phases, "peak"} and estimate["refused"] is None
    assert estimate["seconds"]["total"] > estimate["flops"]["products"] / 1e12 > 0
    assert (estimate["flops"]["least_squares"] > 0) == (variant == "lora")
    assert estimate["disk"]["checkpoints"] > 0
    assert command("plan", variant, "--rate", "1e12", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    for word in ("least squares", "checkpoints", "compressed"):
        assert word in shown
    # In their order; the word for training is not in what stands before.
    places = [shown.index(f"{phase} ") for phase in phases]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("variant", "phase", "ways"),
    [
        ("taylor", "importance", ["calibration.length than 512", "importance: {name: column}"]),
        ("column", "importance", ["calibration.batch: 1", "calibration.sequences than 64"]),
        ("refitted", "least squares", ["calibration.sequences than 64", "reconstruction.form: static"]),
        ("refitted", "surgery", ["a larger machine"]),
        ("lora", "recovery", ["recovery.micro_batch: 1", "recovery.data.length than 512", "recovery.keep: last"]),
        ("finetuned", "recovery", ["recovery.trained: matrices", "recovery.name: masked_lora", "no distillation"]),
        ("blocks", "recovery", ["recovery.micro_batch: 1", "recovery.data.sequences than 1024"]),
        ("blocks", "validation", ["evaluation.batch than 16"]),
    ],
)
def test_the_advice_is_of_the_phase_that_does_not_fit(large: Path, variant: str, phase: str, ways: list[str]):
    workspace = Workspace.open()
    plan = _planner(workspace).plan(workspace.settings.recipe(variant))
    text = advice(workspace.settings, plan, phase)
    assert all(way in text for way in ways)


def test_a_recovery_that_does_not_fit_is_refused_before_anything_is_loaded(large: Path, monkeypatch, capsys):
    monkeypatch.setattr(free_resources, "free_memory", lambda: 2_000_000_000)
    assert command("plan", "finetuned", "--rate", "1e12", monkeypatch=monkeypatch) == 2
    assert "of memory (recovery), and 2.0 GB are there; try recovery.micro_batch: 1" in capsys.readouterr().err
    # There is nothing that could be loaded.
    with pytest.raises(InputError, match=r"2\.0 GB are there"):
        run_stage("prune", "finetuned", None)
    assert not (large / ".espalier").exists()


def test_what_the_advice_says_helps(large: Path):
    workspace = Workspace.open()
    plans = {name: _planner(workspace).plan(workspace.settings.recipe(name)) for name in VARIANTS}
    assert plans["column"].memory["importance"].ram < plans["taylor"].memory["importance"].ram
    assert plans["masked-lora"].memory["recovery"].ram < plans["finetuned"].memory["recovery"].ram
    small = Workspace.open(None, ["variants.finetuned.recovery.micro_batch=1"])
    fewer = _planner(small).plan(small.settings.recipe("finetuned")).memory["recovery"].ram
    assert fewer < plans["finetuned"].memory["recovery"].ram
