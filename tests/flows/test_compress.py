"""The compress flow on a real Prefect server, with real MLflow: what it records, and what a second run does."""

import json
import shutil
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from safetensors.torch import load_file, save_file

from flows.compress import compress
from tasks.pipeline.variant import Pipeline
from tasks.workspace.workspace import Workspace

pytestmark = pytest.mark.slow

VARIANT = "sparsegpt-50"
STEPS = {
    "evaluation tokens",
    "calibration tokens",
    "dense evaluation",
    f"{VARIANT} block 0",
    f"{VARIANT} block 1",
    f"{VARIANT} model",
    f"{VARIANT} evaluation",
    "dense speed",
    f"{VARIANT} speed",
}


def states_by_label(root: Path, earlier: set[str]) -> tuple[str, dict[str, str]]:
    """The flow run of this workspace that is not among `earlier`, and the states of its task runs."""
    with get_client(sync_client=True) as client:
        [run] = [run for run in client.read_flow_runs() if mine(run, root) and str(run.id) not in earlier]
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        # Prefect's server hears of task runs through events, some time after they are done.
        deadline = time.monotonic() + 60
        states: dict[str, str] = {}
        while len(states) < len(STEPS) or not {"Cached", "Completed"} >= set(states.values()):
            assert time.monotonic() < deadline, states
            states = {task.name: task.state_name for task in client.read_task_runs(flow_run_filter=chosen)}
            time.sleep(0.1)
    return str(run.id), states


def mine(run: Any, root: Path) -> bool:
    return run.parameters.get("root") == str(root) and run.name == f"compress {VARIANT}"


@pytest.fixture(scope="module")
def runs(prefect_server, make_workspace) -> dict[str, Any]:
    """Two runs of the flow in one workspace: their records, and the states that the server knows."""
    root = make_workspace()
    first = compress(VARIANT, root=str(root))
    identifier, first_states = states_by_label(root, set())
    second = compress(VARIANT, root=str(root))
    _, second_states = states_by_label(root, {identifier})
    return {"root": root, "records": (first, second), "states": (first_states, second_states)}


def test_the_first_run_completes_every_step_and_the_second_finds_every_step_cached(runs: dict):
    first, second = runs["states"]
    assert first == dict.fromkeys(STEPS, "Completed")
    assert second == dict.fromkeys(STEPS, "Cached")


def test_both_runs_give_the_same_results(runs: dict):
    first, second = ([record.model_copy(update={"steps": ()}) for record in records] for records in runs["records"])
    assert first == second


def test_the_record_counts_the_zeros_that_are_in_the_file(runs: dict):
    dense, sparse = runs["records"][0]
    assert (dense.name, sparse.name) == ("dense", VARIANT)
    facts = sparse.facts
    weights = load_file(Path(sparse.model.path) / "model.safetensors")
    layers = [weights[f"{layer.name}.weight"] for layer in facts.layers]
    zeros = sum(int((layer == 0).sum()) for layer in layers)
    assert facts.sparsity.prunable == zeros / sum(layer.numel() for layer in layers) == 0.5


def test_the_flow_gives_the_digests_that_the_steps_give_without_prefect(runs: dict, make_workspace):
    workspace = Workspace.open(make_workspace())
    pipeline = Pipeline(workspace.context(), workspace.settings)
    record = runs["records"][0][1]
    assert record.model.digest == pipeline.model(VARIANT).digest
    assert record.evaluation.digest == pipeline.quality(VARIANT).digest
    assert record.parents["calibration"].digest == pipeline.calibration.digest


def test_mlflow_holds_one_run_per_variant_after_both(runs: dict):
    with sqlite3.connect(runs["root"] / ".espalier" / "mlflow.db") as database:
        found = database.execute("SELECT name, status FROM runs WHERE lifecycle_stage = 'active'").fetchall()
        tags = dict(
            database.execute(
                "SELECT tags.value, runs.name FROM tags JOIN runs USING (run_uuid) WHERE tags.value IN (?, ?)",
                [record.model.digest for record in runs["records"][0]],
            ).fetchall()
        )
    assert Counter(found) == {("dense", "FINISHED"): 1, (VARIANT, "FINISHED"): 1}
    assert tags[runs["records"][0][1].model.digest] == VARIANT


def test_a_weight_that_is_nan_fails_the_flow_and_is_named(espalier, make_workspace):
    root = make_workspace()
    name = "model.layers.1.mlp.up_proj.weight"
    file = root / "models" / "tiny" / "model.safetensors"
    weights = load_file(file)
    weights[name][3, 5] = float("nan")
    save_file(weights, file, {"format": "pt"})
    done = espalier(root, "compress", "magnitude-50")
    sentences = [line for line in done.err.splitlines() if line.startswith("espalier: ")]
    assert done.code == 1 and len(sentences) == 1 and name in sentences[0], done
    assert "Traceback" not in done.err
    assert not any((path / "model.safetensors").exists() for path in (root / ".espalier" / "objects").iterdir())


def test_the_command_prints_the_record_as_json_and_follows_the_steps(espalier, runs: dict, tmp_path: Path):
    done = espalier(runs["root"], "compress", VARIANT, "--json")
    record = json.loads(done.out)
    assert record["model"] == runs["records"][0][1].model.as_json() and done.code == 0
    assert {step["state"] for step in record["steps"]} == {"Cached"}
    shown = espalier(runs["root"], "compress", VARIANT)
    assert shown.err.count("cached") == len(STEPS) and "\x1b" not in shown.err
    assert record["model"]["path"] in shown.out


def test_a_workspace_moved_elsewhere_computes_nothing_again(espalier, runs: dict, tmp_path: Path):
    moved = shutil.copytree(runs["root"], tmp_path / "moved", symlinks=True)
    steps = json.loads(espalier(moved, "explain", VARIANT, "--json").out)
    assert len(steps) == len(STEPS) - 2 and all(step["cached"] for step in steps)
