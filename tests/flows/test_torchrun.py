"""Calibration on several processes that torchrun starts: the digests of one process alone."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from commands import BIN

from flows.actions.dvc_stage import run_stage

DENSE = {
    "saliency": {"name": "obs"},
    "pattern": {"name": "unstructured"},
    "sparsity": 0.5,
    "compensation": {"name": "sweep", "block": 8},
    "propagate": "dense",
}


@pytest.fixture
def workspace(make_workspace) -> Path:
    root = make_workspace()
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["compute"] = {"shards": 2}
    params["calibration"]["batch"] = 2
    params["variants"]["shared-50"] = DENSE
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return root


def prune(root: Path, variant: str, *overrides: str) -> subprocess.CompletedProcess:
    """`espalier step prune` by two processes, each on one thread."""
    started = [str(BIN / "torchrun"), "--standalone", "--no-python", "--nproc-per-node=2"]
    started += [str(BIN / "espalier"), "step", "prune", variant]
    started += [part for one in overrides for part in ("--set", one)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(started, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def one_thread():
    """This process on one thread, as those that torchrun starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def digests(root: Path, variant: str) -> dict[str, str]:
    """Of the model and of every block and statistics that it was made from, by what they are."""
    manifest = json.loads((root / "artifacts" / "models" / variant / "manifest.json").read_text())
    return {"model": manifest["digest"]} | {name: entry["digest"] for name, entry in manifest["inputs"].items()}


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["sparsegpt-50", pytest.param("shared-50", marks=pytest.mark.long)])
def test_two_processes_reach_the_digests_of_one(workspace: Path, make_workspace, one_thread, monkeypatch, variant: str):
    together = prune(workspace, variant)
    assert together.returncode == 0, together.stderr
    other = make_workspace()
    (other / "params.yaml").write_text((workspace / "params.yaml").read_text())
    monkeypatch.chdir(other)
    run_stage("prune", variant, None)
    assert digests(workspace, variant) == digests(other, variant)
    # In one shard the sums are others, if only in their last bits.
    again = run_stage("prune", variant, ["compute.shards=1"])
    assert any(line.startswith(("computed", "completed")) for line in again)


def test_another_number_of_shards_than_of_processes_is_refused(workspace: Path):
    refused = prune(workspace, "sparsegpt-50", "compute.shards=3")
    assert refused.returncode != 0
    assert "compute.shards is 3 and 2 processes run; set compute.shards to 2" in refused.stderr
