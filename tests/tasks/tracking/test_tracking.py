"""MLflow runs on a real SQLite store, read back with MLflow's own client."""

import copy
import json
import math
import sqlite3
from pathlib import Path

import pytest
from records import RECIPES, digest, make_record

from pruning_core.errors import InputError
from tasks.records.variant import parse
from tasks.tracking import run_index
from tasks.tracking.connection import store_uri
from tasks.tracking.run_contents import params
from tasks.tracking.runs import find_runs, track_variant

TRACK = """
import json, sys
from pathlib import Path
from tasks.records.variant import parse
from tasks.tracking.runs import track_variant
run = track_variant(Path(sys.argv[1]), parse(json.loads(Path(sys.argv[2]).read_text())), [])
print(json.dumps([run.run_id, run.reused]))
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A workspace whose path has a space, with the dense baseline and one variant tracked."""
    workspace = tmp_path_factory.mktemp("a workspace")
    note = workspace / "note.txt"
    note.write_text("a small file")
    for name in ("dense", "sparsegpt-50"):
        assert not track_variant(workspace, parse(make_record(workspace / ".espalier", name)), [note]).reused
    return workspace


@pytest.fixture(scope="module")
def client(workspace):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store_uri(workspace))


def run_of(client, name):
    [run] = client.search_runs(["1"], f"tags.variant = '{name}'")
    return client.get_run(run.info.run_id)


def test_tracking_a_variant_again_reuses_its_run(workspace):
    before = find_runs(workspace)
    again = track_variant(workspace, parse(make_record(workspace / ".espalier", "sparsegpt-50")), [])
    assert again.reused
    assert again.run_id in {run["run_id"] for run in before}
    assert find_runs(workspace) == before


def test_a_run_found_is_what_mlflow_itself_reads(workspace, client):
    theirs = {run.info.run_id: run for run in client.search_runs(["1"])}
    ours = find_runs(workspace)
    assert {run["run_id"] for run in ours} == set(theirs)
    for run in ours:
        data, info = theirs[run["run_id"]].data, theirs[run["run_id"]].info
        assert (run["tags"], run["params"], run["metrics"]) == (data.tags, data.params, data.metrics)
        assert (run["name"], run["status"], run["start_time"]) == (info.run_name, info.status, info.start_time)
        assert run["artifact_uri"] == info.artifact_uri


def test_the_run_names_the_variant_its_recipe_and_its_result(client, workspace):
    record = make_record(workspace / ".espalier", "sparsegpt-50")
    run = run_of(client, "sparsegpt-50")
    assert run.info.run_name == "sparsegpt-50"
    assert run.data.params["saliency"] == "obs"
    assert run.data.params["compensation.damping"] == "0.01"
    metrics, expected = run.data.metrics, record["metrics"]
    assert metrics["perplexity"] == pytest.approx(expected["perplexity"], rel=1e-5)
    assert metrics["loss_increase"] == pytest.approx(expected["difference_to_dense"]["mean"], rel=1e-5)
    assert metrics["sparsity"] == 0.5
    assert metrics["size_mb"] == pytest.approx(11.210752, rel=1e-5)
    seconds = sum(step["seconds"] for step in record["steps"])
    assert run.info.end_time - run.info.start_time == pytest.approx(1000 * seconds, abs=2)


def test_the_layers_are_curves_over_the_blocks(client, workspace):
    layers = make_record(workspace / ".espalier", "sparsegpt-50")["manifest"]["facts"]["layers"]
    expected = [layer["loss"] for layer in layers if layer["name"].endswith("mlp.up_proj")]
    run_id = run_of(client, "sparsegpt-50").info.run_id
    history = client.get_metric_history(run_id, "layer_loss/mlp.up_proj")
    assert [point.value for point in sorted(history, key=lambda point: point.step)] == expected
    assert sorted(point.step for point in history) == list(range(6))


def test_the_texts_are_dataset_inputs_with_their_digests(client):
    inputs = run_of(client, "sparsegpt-50").inputs.dataset_inputs
    found = {entry.tags[0].value: json.loads(entry.dataset.source)["sha256"] for entry in inputs}
    assert found == {"evaluation": digest("test text"), "calibration": digest("train text")}
    for entry in inputs:
        assert json.loads(entry.dataset.source)["sha256"].startswith(entry.dataset.digest)


def test_the_variant_leads_to_its_dense_run_and_back_to_its_code(client):
    dense, run = run_of(client, "dense"), run_of(client, "sparsegpt-50")
    tags = run.data.tags
    assert dense.data.tags["role"] == "baseline"
    assert tags["parent.dense.run_id"] == dense.info.run_id
    assert tags["parent.calibration.digest"] == digest("calibration tokens")
    assert [model.model_id for model in run.inputs.model_inputs] == [dense.data.tags["model_id"]]
    assert f"git checkout {tags['git.commit'][:12]} && espalier compress sparsegpt-50" in (tags["mlflow.note.content"])


def test_the_external_model_names_path_and_digest_and_holds_no_weights(client, workspace):
    run = run_of(client, "sparsegpt-50")
    model = client.get_logged_model(run.data.tags["model_id"])
    record = make_record(workspace / ".espalier", "sparsegpt-50")
    assert model.status.value == "READY"
    assert model.source_run_id == run.info.run_id
    assert (model.tags["path"], model.tags["digest"]) == (record["model"]["path"], record["model"]["digest"])
    assert {metric.key for metric in model.metrics} >= {"perplexity", "sparsity"}
    assert not list(Path(model.artifact_location.removeprefix("file://").replace("%20", " ")).glob("**/*"))


def test_the_manifest_the_chart_and_the_given_files_are_shown(client):
    run_id = run_of(client, "sparsegpt-50").info.run_id
    written = {"layers.svg", "lineage.json", "manifest.json", "note.txt", "samples.json", "settings.yaml"}
    assert {file.path for file in client.list_artifacts(run_id)} == written


def test_a_run_gets_what_became_known_later_and_keeps_what_it_says(client, workspace):
    record = make_record(workspace / ".espalier", "wanda-50")
    early = copy.deepcopy(record) | {"dvc": None, "speed": None}
    run_id = track_variant(workspace, parse(early), []).run_id
    assert "dvc.md5" not in client.get_run(run_id).data.tags
    later = track_variant(workspace, parse(record | {"git_commit": "0" * 40}), [])
    run = client.get_run(run_id)
    assert (later.run_id, later.reused) == (run_id, True)
    assert run.data.tags["dvc.md5"] == record["dvc"]["md5"]
    assert run.data.tags["git.commit"] == record["git_commit"]
    assert run.data.metrics["decode_tok_s"] > 0


def test_an_edited_recipe_gets_a_run_of_its_own(workspace):
    record = make_record(workspace / ".espalier", "magnitude-50")
    first = track_variant(workspace, parse(record), [])
    edited = copy.deepcopy(record)
    edited["model"]["key"] = digest("edited")
    second = track_variant(workspace, parse(edited), [])
    assert not second.reused
    assert second.run_id != first.run_id


def test_a_run_that_a_killed_process_left_is_replaced(client, workspace):
    record = make_record(workspace / ".espalier", "sparsegpt-70")
    tags = {"variant": "sparsegpt-70", "variant_key": record["model"]["key"]}
    left = client.create_run("1", tags=tags | {"evaluation_key": record["evaluation"]["key"]})
    model = client.create_logged_model("1", "sparsegpt-70", left.info.run_id)
    assert "sparsegpt-70" not in {run["name"] for run in find_runs(workspace)}
    tracked = track_variant(workspace, parse(record), [])
    assert not tracked.reused
    assert run_of(client, "sparsegpt-70").info.run_id == tracked.run_id
    assert model.model_id not in {found.model_id for found in client.search_logged_models(["1"])}


def test_a_perplexity_beyond_every_float_is_infinite_in_the_run(workspace):
    record = make_record(workspace / ".espalier", "sparsegpt-2of4")
    record["metrics"]["perplexity"] = None
    run_id = track_variant(workspace, parse(record), []).run_id
    [run] = [run for run in find_runs(workspace) if run["run_id"] == run_id]
    # SQLite has no infinity: MLflow stores the largest float.
    assert run["metrics"]["perplexity"] > 1e300
    assert not math.isnan(run["metrics"]["perplexity"])


def test_a_fact_of_the_wrong_type_is_refused_by_name(tmp_path):
    record = make_record(tmp_path, "wanda-50")
    record["metrics"]["kl_to_dense"] = "0.1"
    with pytest.raises(InputError, match=r"'wanda-50'.*metrics\.kl_to_dense"):
        track_variant(tmp_path, parse(record), [])
    assert not run_index.database(tmp_path).exists()


def test_a_workspace_without_runs_has_none(tmp_path):
    assert find_runs(tmp_path) == []
    run_index.database(tmp_path).parent.mkdir(exist_ok=True)
    sqlite3.connect(run_index.database(tmp_path)).close()
    assert find_runs(tmp_path) == []


@pytest.mark.slow
def test_two_processes_on_a_fresh_database_make_two_runs(tmp_path, start):
    processes = []
    for name in ("dense", "wanda-50"):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(make_record(tmp_path / ".espalier", name)))
        processes.append(start(TRACK, tmp_path, file))
    answers = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert {run["name"] for run in find_runs(tmp_path)} == {"dense", "wanda-50"}
    # Quiet: nothing but the answer, and no warning.
    assert all(json.loads(out)[1] is False and not err for out, err in answers), answers


def test_a_recipe_becomes_flat_params_under_the_names_of_params_yaml():
    assert params(RECIPES["sparsegpt-2of4"]) == {
        "saliency": "obs",
        "pattern": "n_of_m",
        "pattern.n": "2",
        "pattern.m": "4",
        "compensation": "sweep",
        "propagate": "compressed",
    }
