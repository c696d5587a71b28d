"""Shards of the calibration windows on workers of a task runner: the digests of one process, and no loss stays."""

import contextlib
import json
import os
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import yaml
from commands import BIN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NEEDED = {"dask": "prefect_dask", "ray": "prefect_ray"}
WORKERS = "compute.shard_workers={{name: {}}}"


@pytest.fixture(scope="module")
def params(make_workspace) -> dict:
    found = yaml.safe_load((make_workspace() / "params.yaml").read_text())
    found["compute"] = {"shards": 2}
    found["calibration"]["batch"] = 2
    return found | {"variants": {"sparsegpt-50": found["variants"]["sparsegpt-50"]}}


@pytest.fixture
def workspace(make_workspace, params) -> Path:
    root = make_workspace()
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return root


def digests(done) -> dict[str, str]:
    assert done.code == 0, done
    return {record["name"]: record["model"]["digest"] for record in json.loads(done.out)["records"]}


@pytest.fixture(scope="module")
def alone(espalier, make_workspace, params) -> dict[str, str]:
    root = make_workspace()
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return digests(espalier(root, "compare", "--json"))


@pytest.mark.parametrize("name", ["processes", "dask", "ray"])
def test_a_worker_for_the_second_shard_reaches_the_digests_of_one_process(espalier, workspace, alone, name: str):
    if name in NEEDED and find_spec(NEEDED[name]) is None:
        pytest.skip(f"{NEEDED[name]} is not installed: pip install 'espalier[{name}]'")
    done = espalier(workspace, "compare", "--json", "--set", WORKERS.format(name))
    assert digests(done) == alone


SLOW = """import time

from pruning_core.saliency import SALIENCIES


@SALIENCIES.register("slow")
class Slow:
    needs = frozenset({"hessian_diag"})

    def column_scale(self, columns, in_features):
        time.sleep(0.3)
        return columns.hessian_diag.sqrt()
"""


def test_a_worker_that_is_killed_fails_one_variant_and_the_next_has_a_new_one(espalier, workspace):
    (workspace / "slow.py").write_text(SLOW)
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    slow = {"saliency": {"name": "slow"}, "pattern": {"name": "unstructured"}, "sparsity": 0.5}
    params |= {"plugins": ["slow.py"], "variants": {"slow": slow | {"propagate": "blockwise"}}}
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    command = ["sweep", "--sparsities", "0.5,0.6", "--json", "--set", WORKERS.format("processes")]
    started = subprocess.Popen(
        [BIN / "espalier", *command],
        cwd=workspace,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        kill_the_worker(started.pid, workspace)
        out, told = started.communicate(timeout=300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 1, told
    found = json.loads(out)
    assert list(found["failed"]) == ["slow"], found["failed"]
    assert "another calibration process was lost" in found["failed"]["slow"]
    again = espalier(workspace, *command)
    assert set(digests(again)) == {"dense", "slow", "slow-60"}
    steps = {step["label"]: step["state"] for record in json.loads(again.out)["records"] for step in record["steps"]}
    assert [steps[f"slow block {block}"] for block in (0, 1)] == ["Cached", "Completed"]
    assert [steps[f"slow-60 block {block}"] for block in (0, 1)] == ["Cached", "Cached"]


def kill_the_worker(pid: int, workspace: Path) -> None:
    """With signal 9, once the first block is stored: that it took part shows in the end of the command."""
    deadline = time.monotonic() + 300
    while len(stored_blocks(workspace)) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(pid).children(recursive=True)
    (worker,) = [child for child in children if any("spawn_main" in part for part in child.cmdline())]
    worker.kill()


def stored_blocks(workspace: Path) -> list[Path]:
    found = (workspace / ".espalier" / "objects").glob("*/manifest.json")
    return [path for path in found if json.loads(path.read_text())["kind"] == "prune_block"]
