"""Variants that are made smaller or trained back, through the whole chain of steps on a tiny real model."""

import json
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from pipelines import computed, pipeline_of
from safetensors.torch import load_file
from structured_steps import COLUMN

from flows.actions.inspect import explain_variant, lineage_of
from pruning_core.errors import InputError
from pruning_core.source import load_model
from tasks.lineage.collect_record import small_files, variant_record
from tasks.report.page import write_report
from tasks.tracking.connection import store_uri
from tasks.tracking.runs import find_runs, track_variant
from tasks.workspace.workspace import Workspace

MIXED = COLUMN | {"mode": "heterogeneous", "scope": "global", "protect_first": 0, "protect_last": 0}
DATA = {"sequences": 12, "validation": 3}
SPARSE = {"name": "sparse_finetune", "steps": 6, "batch": 4, "learning_rate": 0.01, "validate_every": 3, "data": DATA}
LORA = {"name": "lora", "steps": 6, "batch": 4, "micro_batch": 2, "warmup": 0, "learning_rate": 0.05, "data": DATA}


@pytest.fixture
def recipes(workspace_root: Path):
    """Puts variants into params.yaml and gives the folder."""

    def put(**variants: dict) -> Path:
        params = yaml.safe_load((workspace_root / "params.yaml").read_text())
        params["variants"] |= {name.replace("_", "-"): spec for name, spec in variants.items()}
        (workspace_root / "params.yaml").write_text(yaml.safe_dump(params))
        return workspace_root

    return put


def recipe_of(root: Path, name: str) -> dict:
    return yaml.safe_load((root / "params.yaml").read_text())["variants"][name]


@pytest.mark.parametrize("wanted", [COLUMN, MIXED | {"reconstruction": {"form": "static"}}], ids=["plain", "refitted"])
def test_a_structured_variant_is_smaller_and_evaluated_like_any_other(recipes, wanted: dict):
    pipeline, _ = pipeline_of(recipes(narrow={"structured": wanted}))
    model, quality = pipeline.model("narrow"), pipeline.quality("narrow")
    assert model.facts["recipe"] == {"structured": wanted}
    assert model.facts["parameters"]["stored"] == sum(p.numel() for p in load_model(model.path).parameters())
    assert quality.facts["kl_to_dense"] > 0
    speed = pipeline.speed("narrow").facts
    assert speed["size"]["parameters"] == model.facts["parameters"]["stored"] < model.facts["parameters"]["all"]


def test_another_ratio_scores_nothing_again(recipes):
    root = recipes(narrow={"structured": COLUMN}, narrower={"structured": COLUMN | {"ratio": 0.4}})
    pipeline_of(root)[0].model("narrow")
    pipeline, seen = pipeline_of(root)
    pipeline.model("narrower")
    assert computed(seen) == ["narrower model"]


def test_a_recovered_variant_shares_the_compressed_model_with_the_one_that_is_not(recipes, workspace_root: Path):
    root = recipes(trained=recipe_of(workspace_root, "sparsegpt-50") | {"recovery": SPARSE})
    before = pipeline_of(root)[0].model("sparsegpt-50")
    pipeline, seen = pipeline_of(root)
    done = pipeline.model("trained")
    assert computed(seen) == ["recovery tokens", "evaluation tokens", "recovery windows", "trained recovery"]
    assert done.manifest["inputs"]["model"]["digest"] == before.digest == pipeline.compressed_model("trained").digest
    assert {name: value.tolist() for name, value in load_file(done.path / "masks.safetensors").items()} == {
        name: value.tolist() for name, value in load_file(before.path / "masks.safetensors").items()
    }
    assert done.facts["recipe"]["recovery"] == {key: value for key, value in SPARSE.items() if key != "data"}
    pipeline, seen = pipeline_of(root)
    pipeline.quality("trained")
    assert computed(seen) == ["dense evaluation", "trained evaluation"]


def test_windows_set_apart_are_not_trained_on(recipes, workspace_root: Path):
    """The training's own figure of the start is that of the compressed model on the windows at even places."""
    from pruning_core.evaluation.perplexity import perplexity
    from tasks.pipeline.recovery import training_text
    from tasks.steps.hidden_states import load_tokens

    root = recipes(trained=recipe_of(workspace_root, "magnitude-50") | {"recovery": SPARSE})
    pipeline, _ = pipeline_of(root)
    done = pipeline.model("trained")
    windows = load_tokens(training_text(pipeline, pipeline.settings.recipe("trained")))
    assert len(windows) == 15
    loss = perplexity(load_model(pipeline.compressed_model("trained").path), windows[[0, 5, 10]]).mean_loss
    points = json.loads((done.path / "loss_curve.json").read_text())["model"]
    assert points[0]["validation_loss"] == pytest.approx(loss, abs=1e-6)


def test_training_alone_prunes_in_rounds_or_tunes_what_comes(recipes):
    rounds = {"name": "iterative_magnitude", "rounds": 2, "sparsity": 0.5, "steps": 8, "batch": 4, "data": DATA}
    pipeline, seen = pipeline_of(recipes(rounds={"recovery": rounds}))
    model = pipeline.model("rounds")
    assert model.facts["sparsity"]["prunable"] == 0.5 and computed(seen) == [
        "recovery tokens",
        "evaluation tokens",
        "recovery windows",
        "rounds recovery",
    ]
    record = variant_record(Workspace.open(pipeline.context.workspace), pipeline, "rounds", [])
    assert record.parents.keys() == {"dense", "recovery"}


def test_lineage_run_and_report_tell_of_the_scores_the_model_before_and_the_training(
    recipes, monkeypatch, tmp_path: Path
):
    root = recipes(narrow={"structured": MIXED | {"reconstruction": {"form": "static"}}, "recovery": LORA})
    monkeypatch.chdir(root)
    pipeline, _ = pipeline_of(root)
    pipeline.quality("narrow")
    model = pipeline.model("narrow")
    links = lineage_of("narrow", None)["chain"]
    assert [link["what"] for link in links] == [
        *("source checkpoint", "calibration tokens", "importance", "compressed", "recovery tokens", "variant"),
        *("evaluation tokens", "evaluation"),
    ]
    assert all(step["cached"] for step in explain_variant("narrow", None))
    record = variant_record(Workspace.open(root), pipeline, "narrow", [])
    files = small_files(pipeline, "narrow")
    assert {file.name for file in files} == {"groups.txt", "loss_curve.json", "plan.txt"}
    run = track_variant(root, record, files)
    [found] = find_runs(root)
    chain = {link["what"]: link["digest"] for link in links}
    assert found["tags"]["parent.importance.digest"] == chain["importance"]
    assert (
        found["tags"]["parent.compressed.digest"] == chain["compressed"] == pipeline.compressed_model("narrow").digest
    )
    assert "Recovery: 6 steps, validation loss" in found["tags"]["mlflow.note.content"]
    assert found["params"]["structured.importance"] == "column" and found["params"]["recovery"] == "lora"
    client = MlflowClient(tracking_uri=store_uri(root))
    curve = client.get_metric_history(run.run_id, "recovery/validation_loss")
    told = model.facts["recovery"]["validation_loss"]
    assert curve[0].value == pytest.approx(told["before"]) and {point.step for point in curve} >= {0, 6}
    dense = variant_record(Workspace.open(root), pipeline, "dense", [])
    page = write_report([dense, record], Path("report.html"), tmp_path).read_text()
    assert "Loss on windows set apart" in page and "loss_curve" not in page
    removed = sum(layer["removed"] for layer in model.facts["layers"])
    assert model.facts["sparsity"]["prunable"] == pytest.approx(removed / model.facts["parameters"]["prunable"])


def test_a_training_text_that_is_the_evaluations_is_refused(recipes, workspace_root: Path):
    text = yaml.safe_load((workspace_root / "params.yaml").read_text())["evaluation"]["text"]
    recovery = SPARSE | {"data": {"sequences": 3, "validation": 1, "text": text}}
    pipeline, _ = pipeline_of(recipes(trained=recipe_of(workspace_root, "magnitude-50") | {"recovery": recovery}))
    with pytest.raises(InputError, match="the training text is the evaluation text"):
        pipeline.model("trained")


def test_explain_looks_at_variants_that_are_not_made_yet(recipes, monkeypatch):
    root = recipes(narrow={"structured": COLUMN, "recovery": LORA})
    monkeypatch.chdir(root)
    steps = {step["label"]: step for step in explain_variant("narrow", None)}
    assert {"column importance", "narrow model", "recovery tokens", "narrow recovery"} <= steps.keys()
    assert not any(step["cached"] for step in steps.values())
