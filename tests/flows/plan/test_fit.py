"""`espalier plan`, and runs that are refused because they cannot fit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from plan_commands import command

from flows.actions.dvc_stage import run_stage
from flows.plan import fit
from pruning_core.errors import InputError
from tasks.machine import free_resources
from tasks.workspace.workspace import Workspace

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
SWEEP = {"name": "sweep", "block": 128}
SPARSEGPT = {"saliency": {"name": "obs"}, "pattern": {"name": "unstructured"}, "sparsity": 0.5, "compensation": SWEEP}
SIZES = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}


@pytest.fixture
def large(without_weights) -> Path:
    """A workspace with the config of 7 billion parameters."""
    return without_weights(SIZES, 2048, {"sparsegpt-50": SPARSEGPT})


def test_a_plan_needs_no_weights(large: Path, monkeypatch, capsys):
    assert command("plan", "sparsegpt-50", "--json", "--rate", "1e12", monkeypatch=monkeypatch) == 0
    estimate = json.loads(capsys.readouterr().out)
    assert estimate["refused"] is None and estimate["rate"] == 1e12
    assert estimate["ram"]["peak"] > 5e9 and estimate["disk"]["variant"] > 13e9
    assert estimate["seconds"]["total"] > estimate["flops"]["products"] / 1e12
    assert command("plan", "sparsegpt-50", "--rate", "1e12", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "32 blocks" in shown and "then evaluate" in shown and "linear layers" in shown


def test_a_run_that_does_not_fit_into_memory_is_refused_with_what_would_help(large: Path, monkeypatch, capsys):
    monkeypatch.setattr(free_resources, "free_memory", lambda: 4_000_000_000)
    assert command("plan", "sparsegpt-50", "--rate", "1e12", monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert "of memory" in error and "4.0 GB are there" in error
    for way in ("calibration.sequences than 64", "compute.states: mapped", "propagate: blockwise"):
        assert way in error
    # Before anything is loaded: there is nothing that could be.
    with pytest.raises(InputError, match=r"4\.0 GB are there"):
        run_stage("prune", "sparsegpt-50", None)
    assert not (large / ".espalier").exists()
    with pytest.raises(InputError) as refused:
        run_stage("prune", "sparsegpt-50", ["compute.states=mapped"])
    assert "states: mapped" not in str(refused.value)


def test_what_the_advice_says_helps(large: Path, monkeypatch):
    monkeypatch.setattr(free_resources, "free_memory", lambda: 8_000_000_000)
    with pytest.raises(InputError, match="needs"):
        fit.check_room(Workspace.open(), ["sparsegpt-50"], evaluates=False)
    overrides = ["compute.states=mapped", f"variants.sparsegpt-50={json.dumps(SPARSEGPT | {'propagate': 'blockwise'})}"]
    fit.check_room(Workspace.open(None, overrides), ["sparsegpt-50"], evaluates=False)


def test_evaluation_may_be_what_does_not_fit(large: Path, monkeypatch):
    monkeypatch.setattr(free_resources, "free_memory", lambda: 50_000_000_000)
    fit.check_room(Workspace.open(), ["sparsegpt-50"], evaluates=False)
    with pytest.raises(InputError, match="step prune"):
        fit.check_room(Workspace.open(), ["sparsegpt-50"], evaluates=True)


def test_a_full_disk_is_told_before_the_run(large: Path, monkeypatch):
    monkeypatch.setattr(free_resources, "free_disk", lambda folder: 20_000_000_000)
    with pytest.raises(InputError, match=r"20\.0 GB are free on the disk"):
        fit.check_room(Workspace.open(), ["sparsegpt-50"], evaluates=False)
    # What lies in the store already need not be written again.
    stored = large / ".espalier" / "objects" / "k"
    stored.mkdir(parents=True)
    with (stored / "weights.safetensors").open("wb") as file:
        file.truncate(30_000_000_000)
    fit.check_room(Workspace.open(), ["sparsegpt-50"], evaluates=False)


def test_a_small_model_is_never_refused_for_its_memory(make_workspace, monkeypatch):
    monkeypatch.setattr(free_resources, "free_memory", lambda: 0)
    workspace = Workspace.open(make_workspace())
    fit.check_room(workspace, list(workspace.settings.variants), evaluates=True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["plan", "sparsegpt-50", "--rate", "0"], "--rate"),
        (["plan", "sparsegpt-5"], "did you mean"),
        (["plan", "sparsegpt-50", "--set", "model=nowhere/at/all"], "does not exist"),
    ],
)
def test_wrong_input_is_one_sentence(large: Path, monkeypatch, capsys, arguments, told):
    assert command(*arguments, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_the_memory_of_a_real_run_is_the_planned_one(make_workspace):
    """Within a quarter of what the process holds at its worst, the libraries included, and not below nine tenths."""
    sizes = {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 8, "num_key_value_heads": 8}
    root = make_workspace(**sizes, num_hidden_layers=1, initializer_range=0.02, max_position_embeddings=512)
    overrides = ["--set", "calibration.sequences=32", "--set", "calibration.length=100", "--set", "calibration.batch=8"]
    planner = fit._planner(Workspace.open(root, overrides[1::2]))
    planned = planner.plan(planner.settings.recipe("sparsegpt-50")).ram
    run = [sys.executable, "-m", "flows.cli", "step", "prune", "sparsegpt-50", *overrides]
    code = f"import os, subprocess as s; p = s.Popen({run!r}); print(os.wait4(p.pid, 0)[1:][1].ru_maxrss, p.returncode)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert (root / "artifacts" / "models" / "sparsegpt-50" / "model.safetensors").is_file(), done.stderr
    measured = int(done.stdout.split()[-2]) * 1024
    assert 0.9 * measured < planned < 1.25 * measured
