"""Calibration on several processes that torchrun starts: the digests of one process alone."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from commands import BIN

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


def prune(root: Path, variant: str, processes: int, *overrides: str) -> subprocess.CompletedProcess:
    """`espalier step prune`, on one thread for each process."""
    started = [str(BIN / "espalier"), "step", "prune", variant, *(part for one in overrides for part in ("--set", one))]
    if processes > 1:
        given = ["--standalone", "--no-python", f"--nproc-per-node={processes}"]
        started = [str(BIN / "torchrun"), *given, *started]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(started, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)


def digests(root: Path, variant: str) -> dict[str, str]:
    """Of the model and of every block and statistics that it was made from, by what they are."""
    manifest = json.loads((root / "artifacts" / "models" / variant / "manifest.json").read_text())
    return {"model": manifest["digest"]} | {name: entry["digest"] for name, entry in manifest["inputs"].items()}


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["sparsegpt-50", "shared-50"])
def test_two_processes_reach_the_digests_of_one(workspace: Path, make_workspace, variant: str):
    together = prune(workspace, variant, 2)
    assert together.returncode == 0, together.stderr
    other = make_workspace()
    (other / "params.yaml").write_text((workspace / "params.yaml").read_text())
    alone = prune(other, variant, 1)
    assert alone.returncode == 0, alone.stderr
    assert digests(workspace, variant) == digests(other, variant)
    # In one shard the sums are others, if only in their last bits.
    again = prune(other, variant, 1, "compute.shards=1")
    assert again.returncode == 0, again.stderr
    assert "computed" in again.stdout or "completed" in again.stdout


def test_another_number_of_shards_than_of_processes_is_refused(workspace: Path):
    refused = prune(workspace, "sparsegpt-50", 2, "compute.shards=3")
    assert refused.returncode != 0
    assert "compute.shards is 3 and 2 processes run; set compute.shards to 2" in refused.stderr
