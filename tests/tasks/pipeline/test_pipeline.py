"""The whole chain of steps on a tiny real model, driven directly."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from pipelines import computed, edit, pipeline_of
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pruning_core.compress.block import compress_block
from pruning_core.errors import InputError
from tasks.steps import hidden_states

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["sparsegpt-50", "shared-2of4", "magnitude-50"])
def test_a_variant_is_a_model_that_transformers_loads_with_exact_zeros(workspace_root: Path, name: str):
    pipeline, _ = pipeline_of(workspace_root)
    model = pipeline.model(name)
    loaded = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    masks = load_file(model.path / "masks.safetensors")
    zeros = 0
    for layer in model.facts["layers"]:
        weight = loaded.get_parameter(f"{layer['name']}.weight")
        bits = masks[layer["name"]]
        for row in range(layer["rows"]):
            for column in range(layer["columns"]):
                survives = int(bits[row, column // 8]) >> (column % 8) & 1
                assert survives or weight[row, column] == 0
        zeros += int((weight == 0).sum())
    prunable = sum(layer["rows"] * layer["columns"] for layer in model.facts["layers"])
    assert zeros == prunable // 2
    assert model.facts["sparsity"]["prunable"] == 0.5


def test_a_quantized_variant_keeps_its_integers_beside_the_weights_they_stand_for(workspace_root: Path):
    edit(workspace_root, "sparsegpt-50", "quantizer", {"name": "affine", "bits": 4, "group_size": 8})
    pipeline, _ = pipeline_of(workspace_root)
    model = pipeline.model("sparsegpt-50")
    parts, weights = load_file(model.path / "quantized.safetensors"), load_file(model.path / "model.safetensors")
    for layer in model.facts["layers"]:
        codes, scale, zero, group = (parts[f"{layer['name']}.{part}"] for part in ("codes", "scale", "zero", "group"))
        stood_for = scale[:, group.long()] * (codes.float() - zero[:, group.long()])
        assert torch.equal(stood_for, weights[f"{layer['name']}.weight"])
        assert layer["zeros"] >= layer["removed"] == codes.numel() // 2
    assert model.facts["bits_per_weight"]["bitmask"] < model.facts["bits_per_weight"]["stored"]


def test_the_second_time_nothing_is_computed(workspace_root: Path):
    for name in ("sparsegpt-50", "shared-2of4"):
        pipeline_of(workspace_root)[0].quality(name)
    pipeline, seen = pipeline_of(workspace_root)
    for name in ("sparsegpt-50", "shared-2of4"):
        pipeline.quality(name)
    assert len(seen.records) > 10 and computed(seen) == []


def test_editing_one_variant_computes_that_variant_alone(workspace_root: Path):
    for name in ("sparsegpt-50", "shared-2of4"):
        pipeline_of(workspace_root)[0].quality(name)
    edit(workspace_root, "sparsegpt-50", "sparsity", 0.25)
    pipeline, seen = pipeline_of(workspace_root)
    for name in ("sparsegpt-50", "shared-2of4"):
        pipeline.quality(name)
    assert computed(seen) == [
        "sparsegpt-50 block 0",
        "sparsegpt-50 block 1",
        "sparsegpt-50 model",
        "sparsegpt-50 evaluation",
    ]


def test_variants_on_dense_statistics_share_them(workspace_root: Path):
    pipeline_of(workspace_root)[0].model("shared-2of4")
    edit(workspace_root, "magnitude-50", "saliency", {"name": "wanda"})
    edit(workspace_root, "magnitude-50", "propagate", "dense")
    pipeline, seen = pipeline_of(workspace_root)
    pipeline.model("magnitude-50")
    assert computed(seen) == ["magnitude-50 block 0", "magnitude-50 block 1", "magnitude-50 model"]


def test_states_in_a_mapped_file_make_no_other_variant(workspace_root: Path):
    pipeline, _ = pipeline_of(workspace_root)
    in_memory = pipeline.model("sparsegpt-50")
    pipeline, seen = pipeline_of(workspace_root, ["compute.states=mapped"])
    assert pipeline.model("sparsegpt-50").digest == in_memory.digest
    assert computed(seen) == []
    other = workspace_root.parent / "mapped"
    shutil.copytree(workspace_root, other, ignore=shutil.ignore_patterns(".espalier"))
    pipeline, seen = pipeline_of(other, ["compute.states=mapped"])
    assert pipeline.model("sparsegpt-50").digest == in_memory.digest
    assert len(computed(seen)) > 2


def test_two_workspaces_give_equal_digests(workspace_root: Path, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(workspace_root / "params.yaml", other)
    first, second = (pipeline_of(root)[0].quality("sparsegpt-50") for root in (workspace_root, other))
    assert first.digest == second.digest and first.path != second.path


def test_an_artifact_altered_by_hand_is_found_and_computed_again(workspace_root: Path):
    pipeline, _ = pipeline_of(workspace_root)
    model = pipeline.model("sparsegpt-50")
    weights = model.path / "model.safetensors"
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    pipeline, seen = pipeline_of(workspace_root)
    assert pipeline.model("sparsegpt-50").digest == model.digest
    assert computed(seen) == ["sparsegpt-50 model"]


def test_a_lost_block_is_recomputed_from_the_blocks_before_it(workspace_root: Path):
    pipeline, _ = pipeline_of(workspace_root)
    model = pipeline.model("sparsegpt-50")
    lost = model.manifest["inputs"]["block-1"]
    shutil.rmtree(pipeline.context.store.objects / lost["key"])
    pipeline, seen = pipeline_of(workspace_root)
    assert pipeline.model("sparsegpt-50").digest == model.digest
    assert computed(seen) == ["sparsegpt-50 block 1"]


CHILD = """
import os, sys
from pathlib import Path
from tasks.engine.step import direct
from tasks.engine.step_log import StepLog, listening
from tasks.pipeline.open_pipeline import opened
from tasks.workspace.workspace import Workspace

pipeline = opened(Workspace.open(Path(sys.argv[1])), StepLog(direct))
with listening(lambda record: print(record["label"], record["state"], flush=True)):
    print(pipeline.model("sparsegpt-50").digest, flush=True)
"""


@pytest.mark.long
def test_a_run_killed_between_blocks_resumes_at_the_block_and_gives_the_same_bits(
    workspace_root: Path, tmp_path_factory, start
):
    whole = tmp_path_factory.mktemp("whole")
    shutil.copy(workspace_root / "params.yaml", whole)
    expected = pipeline_of(whole)[0].model("sparsegpt-50").digest
    process = start(CHILD, workspace_root)
    for line in process.stdout:
        if line.startswith("sparsegpt-50 block 0"):
            process.send_signal(signal.SIGKILL)
            break
    process.wait(timeout=30)
    output, errors = start(CHILD, workspace_root).communicate(timeout=120)
    assert "sparsegpt-50 block 0 Cached" in output, errors
    assert "sparsegpt-50 block 1 Completed" in output or "sparsegpt-50 block 1 Cached" in output
    assert output.splitlines()[-1] == expected


def test_quality_is_compared_with_the_dense_model_on_the_same_windows(workspace_root: Path):
    pipeline, _ = pipeline_of(workspace_root)
    dense, sparse = pipeline.quality("dense"), pipeline.quality("sparsegpt-50")
    losses = [json.loads((part.path / "windows.json").read_text())["losses"] for part in (sparse, dense)]
    expected = sum(left - right for left, right in zip(*losses, strict=True)) / len(losses[0])
    assert sparse.facts["difference_to_dense"]["mean"] == pytest.approx(expected)
    assert sparse.facts["kl_to_dense"] > 0 and dense.facts["kl_to_dense"] == 0
    assert sparse.facts["protocol"]["digest"] == dense.facts["protocol"]["digest"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("calibration.length=64", "longer than the model's context of 32"),
        ("calibration.sequences=5000", "5000 were asked"),
        ("model=nowhere/at/all/x", "does not exist"),
        ("variants.shared-2of4.pattern={name: n_of_m, n: 2, m: 5}", "divisible by 5, got 16"),
    ],
)
def test_wrong_input_is_told_and_loses_nothing(workspace_root: Path, override: str, sentence: str):
    pipeline, _ = pipeline_of(workspace_root, [override])
    with pytest.raises(InputError, match=sentence):
        pipeline.model("shared-2of4")
    assert not list((workspace_root / ".espalier" / "tmp").glob("*/model.safetensors"))


def test_a_text_that_changed_is_tokenised_again(workspace_root: Path):
    pipeline, _ = pipeline_of(workspace_root)
    before = pipeline.calibration
    (workspace_root / "train.txt").write_text("w1 w2 w3 " * 400)
    pipeline, _ = pipeline_of(workspace_root)
    assert pipeline.calibration.facts["text_digest"] != before.facts["text_digest"]


def test_a_finished_variant_leaves_no_checkpoints(workspace_root: Path, monkeypatch):
    monkeypatch.setattr("tasks.steps.hidden_states.CHECKPOINT_SECONDS", 0.0)
    for name in ("sparsegpt-50", "shared-2of4"):
        pipeline_of(workspace_root)[0].model(name)
    assert list((workspace_root / ".espalier" / "scratch").glob("states-*")) == []


@pytest.mark.parametrize("damage", ["none", "a byte", "cut short"])
def test_checkpointed_states_are_those_of_the_run(workspace_root: Path, tmp_path_factory, monkeypatch, damage: str):
    expected = pipeline_of(workspace_root)[0].model("sparsegpt-50")
    other = tmp_path_factory.mktemp("checkpointed")
    shutil.copy(workspace_root / "params.yaml", other)
    monkeypatch.setattr("tasks.steps.hidden_states.CHECKPOINT_SECONDS", 0.0)
    pipeline, _ = pipeline_of(other)

    def stop(decoder, index, *rest, **options):
        if index == 1:
            raise KeyboardInterrupt
        return compress_block(decoder, index, *rest, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("tasks.steps.prune_block.compress_block", stop)
        pipeline.model("sparsegpt-50")
    hidden_states._finish_writing()
    [checkpoint] = (other / ".espalier" / "scratch").glob("states-*/states.safetensors")
    content = bytearray(checkpoint.read_bytes())
    content[-1] ^= 1 if damage == "a byte" else 0
    checkpoint.write_bytes(content[: len(content) // 2] if damage == "cut short" else content)
    # What this process holds in memory is forgotten, so that the checkpoint is what is read.
    monkeypatch.setattr(hidden_states._LIVE, "states", None)
    if damage == "none":
        monkeypatch.setattr("tasks.steps.hidden_states.propagate", None)
    assert pipeline_of(other)[0].model("sparsegpt-50").digest == expected.digest


def test_nothing_in_the_store_is_a_pickle(workspace_root: Path):
    pipeline, _ = pipeline_of(workspace_root)
    pipeline.quality("sparsegpt-50")
    files = [path for path in (workspace_root / ".espalier").rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert len(files) > 30 and kinds <= {".safetensors", ".json", ".jsonl", ".lock", ""}
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            load_file(path)
