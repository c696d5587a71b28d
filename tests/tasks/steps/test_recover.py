"""The step that trains a variant: what it writes, what it refuses, and a kill in the middle."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pipelines import edit, pipeline_of
from safetensors.torch import load_file, save_file
from structured_steps import MIXED, UNIFORM, Steps
from torch import Tensor
from transformers import AutoModelForCausalLM, GraniteMoeConfig, MixtralConfig

from pruning_core.errors import ComputationError, InputError
from pruning_core.evaluation.perplexity import perplexity
from pruning_core.source import load_model
from pruning_core.text import TEXTS
from tasks.engine.step import direct
from tasks.pipeline.variant import Pipeline
from tasks.steps.hidden_states import load_tokens
from tasks.steps.recover import CURVE, libraries_of, recover
from tasks.steps.recovery_windows import recovery_windows
from tasks.steps.tokens import tokens
from tasks.store.artifact import Artifact
from tasks.store.store import Store

SHORT = {"steps": 8, "batch": 4, "learning_rate": 0.01, "validate_every": 4}
SPARSE = {"name": "sparse_finetune"} | SHORT
PAIRS = torch.randint(1, 20, (450,), generator=torch.Generator().manual_seed(9)).tolist()
LEARNABLE = [word for first in PAIRS for word in (f"w{first}", f"w{first + 20}")]
"""Every second word follows from the one before."""
OTHERS = [
    {"name": "masked_lora", "rank": 2, "distillation": 0.5} | SHORT,
    {"name": "block_reconstruction"} | SHORT,
]


def params_of(recovery: dict, **changed) -> dict:
    return {
        "recovery": recovery,
        "batch": 4,
        "trust_remote_code": False,
        "device": "cpu",
        "dtype": "float32",
        "libraries": libraries_of(recovery),
        "checkpoint_every": 2,
    } | changed


def text_windows(pipeline: Pipeline, sequences: int) -> Artifact:
    """Windows of train.txt."""
    text = {"name": "file", "path": str(pipeline.context.workspace / "train.txt")}
    params = {"role": "calibration", "text": text, "text_digest": TEXTS.build(text).read().digest, "length": 16}
    params |= {"trust_remote_code": False, "sequences": sequences, "sampling": "spread", "seed": 0}
    return pipeline.context.run(tokens, params, {"source": pipeline.source})


def windows(pipeline: Pipeline, overlap: str = "refuse", **inputs: Artifact) -> Artifact:
    """12 to train on and 6 to validate on."""
    texts = {"tokens": text_windows(pipeline, 18), "evaluation": pipeline.evaluation} | inputs
    return pipeline.context.run(recovery_windows, {"validation": 6, "overlap": overlap}, texts)


def held_out(pipeline: Pipeline) -> Tensor:
    return load_tokens(windows(pipeline), "validation")


def inputs_of(pipeline: Pipeline, model: Artifact) -> dict[str, Artifact]:
    return {"model": model, "windows": windows(pipeline), "source": pipeline.source}


def recovered(root: Path, variant: str, recovery: dict, **changed) -> tuple[Artifact, Artifact]:
    """A variant and what recovery makes of it."""
    pipeline, _ = pipeline_of(root)
    model = pipeline.model(variant)
    return model, pipeline.context.run(recover, params_of(recovery, **changed), inputs_of(pipeline, model))


def half(root: Path) -> None:
    """Store the workspace's model in 16 bits, as most models are."""
    path = root / "tiny" / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(path).items()}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("recovery", [SPARSE, *OTHERS], ids=lambda one: one["name"])
@pytest.mark.parametrize("variant", ["sparsegpt-50", "shared-2of4"])
def test_a_variant_comes_back_with_its_masks_its_dtype_and_a_lower_loss(
    workspace_root: Path, variant: str, recovery: dict
):
    half(workspace_root)
    model, done = recovered(workspace_root, variant, recovery)
    loaded = AutoModelForCausalLM.from_pretrained(done.path, dtype=torch.float32)
    stored = load_file(done.path / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    masks = load_file(done.path / "masks.safetensors")
    before = load_file(model.path / "masks.safetensors")
    assert masks.keys() == before.keys() and all(torch.equal(masks[name], before[name]) for name in masks)
    zeros = 0
    for layer in done.facts["layers"]:
        weight = loaded.get_parameter(f"{layer['name']}.weight").detach()
        bits = np.unpackbits(masks[layer["name"]].numpy(), axis=1, bitorder="little")[:, : layer["columns"]]
        assert bool((weight[torch.from_numpy(bits) == 0] == 0).all())
        assert layer["zeros"] == int((weight == 0).sum()) and layer["removed"] == int((bits == 0).sum())
        zeros += layer["removed"]
    assert done.facts["recovery"]["removed"] == {"before": zeros, "after": zeros}
    assert done.facts["sparsity"]["prunable"] == model.facts["sparsity"]["prunable"] == 0.5
    assert done.facts.keys() >= model.facts.keys() and done.facts["size_bytes"] == model.facts["size_bytes"]
    told = done.facts["recovery"]["validation_loss"]
    if recovery["name"] != "block_reconstruction":
        assert told["after"] < told["before"]
    assert (
        done.facts["recipe"]["recovery"] == recovery
        and done.facts["recipe"]["sparsity" if "50" in variant else "pattern"]
    )
    assert {file.name for file in model.path.iterdir()} | {CURVE} == {file.name for file in done.path.iterdir()}


def test_losses_and_the_recovered_share_are_those_of_the_written_models(workspace_root: Path):
    # Of a dense model that has learnt something, which pruning takes from it again.
    (workspace_root / "train.txt").write_text(" ".join(LEARNABLE))
    pipeline, _ = pipeline_of(workspace_root)
    inputs = inputs_of(pipeline, pipeline.source)
    trained = pipeline.context.run(recover, params_of(SPARSE | {"steps": 30}), inputs)
    shutil.copy(trained.path / "model.safetensors", workspace_root / "tiny")
    pipeline, _ = pipeline_of(workspace_root)
    model, done = recovered(workspace_root, "magnitude-50", SPARSE)
    losses = [
        perplexity(load_model(path), held_out(pipeline)).mean_loss
        for path in (pipeline.source.path, model.path, done.path)
    ]
    told = done.facts["recovery"]
    expected = dict(zip(("dense", "before", "after"), losses, strict=True))
    assert told["validation_loss"] == pytest.approx(expected, abs=1e-6)
    assert losses[0] < losses[1]
    share = (losses[1] - losses[2]) / (losses[1] - losses[0])
    assert told["recovered_share"] == pytest.approx(share, abs=1e-3) and told["steps"] == 8
    points = json.loads((done.path / CURVE).read_text())["model"]
    assert [point["step"] for point in points] == [0, 4, 8]
    assert points[0]["validation_loss"] == pytest.approx(losses[1]) and points[-1]["validation_loss"] == pytest.approx(
        losses[2]
    )


def test_a_recovered_variant_is_found_again_and_how_often_it_was_checkpointed_does_not_matter(workspace_root: Path):
    _, first = recovered(workspace_root, "magnitude-50", SPARSE)
    _, again = recovered(workspace_root, "magnitude-50", SPARSE, checkpoint_every=5)
    _, other = recovered(workspace_root, "magnitude-50", SPARSE | {"seed": 1})
    assert again.hit and again.digest == first.digest and not other.hit and other.digest != first.digest
    assert not list((workspace_root / ".espalier" / "scratch").glob("*"))


def test_a_dense_model_is_pruned_in_rounds(workspace_root: Path):
    pipeline, _ = pipeline_of(workspace_root)
    recovery = {"name": "iterative_magnitude", "rounds": 2, "sparsity": 0.5} | SHORT
    done = pipeline.context.run(recover, params_of(recovery), inputs_of(pipeline, pipeline.source))
    facts = done.facts
    assert facts["sparsity"]["prunable"] == 0.5 and facts["recovery"]["history"][0]["event"] == "pruned_in_rounds"
    assert facts["recovery"]["removed"] == {"before": 0, "after": facts["parameters"]["removed"]}
    loaded = AutoModelForCausalLM.from_pretrained(done.path, dtype=torch.float32)
    zeros = sum(int((loaded.get_parameter(f"{one['name']}.weight") == 0).sum()) for one in facts["layers"])
    assert zeros == facts["parameters"]["removed"]
    assert facts.keys() == pipeline.model("magnitude-50").facts.keys() | {"recovery"}


def test_lora_makes_a_model_without_masks_better(workspace_root: Path):
    pipeline, _ = pipeline_of(workspace_root)
    recovery = {"name": "lora", "warmup": 0, "micro_batch": 2} | SHORT | {"learning_rate": 0.1}
    done = pipeline.context.run(recover, params_of(recovery), inputs_of(pipeline, pipeline.source))
    told = done.facts["recovery"]
    assert told["validation_loss"]["after"] < told["validation_loss"]["before"] and told["recovered_share"] is None
    assert not (done.path / "masks.safetensors").exists()
    assert libraries_of(recovery).keys() == {"peft"}


@pytest.mark.parametrize("ranking", [UNIFORM, MIXED], ids=["uniform", "heterogeneous"])
@pytest.mark.parametrize("name", ["lora", "sparse_finetune", "block_reconstruction"])
def test_a_model_that_was_made_smaller_stays_as_small(workspace_root: Path, ranking: dict, name: str):
    steps = Steps(workspace_root)
    model = steps.model(ranking)
    rate = {"lora": 0.1, "sparse_finetune": 0.01, "block_reconstruction": 0.002}[name]
    recovery = {"name": name} | SHORT | {"warmup": 0, "micro_batch": 2, "learning_rate": rate}
    done = steps.run(recover, params_of(recovery), inputs_of(steps.pipeline, model), "recovery")
    before, after = (load_file(one.path / "model.safetensors") for one in (model, done))
    assert {key: value.shape for key, value in after.items()} == {key: value.shape for key, value in before.items()}
    same = ("layers", "sparsity", "size_bytes", "structure", "bits_per_weight")
    assert all(done.facts[one] == model.facts[one] for one in same)
    assert (done.path / "plan.json").read_bytes() == (model.path / "plan.json").read_bytes()
    losses = done.facts["recovery"]["validation_loss"]
    assert perplexity(load_model(done.path), held_out(steps.pipeline)).mean_loss == pytest.approx(
        losses["after"], abs=1e-6
    )
    curves = json.loads((done.path / CURVE).read_text()).values()
    # What pruning left as it was has no loss to lower.
    falling = [one for one in curves if one[0]["validation_loss"] > 1e-9]
    assert falling and all(one[-1]["validation_loss"] < one[0]["validation_loss"] for one in falling)


def test_an_expert_that_no_token_reaches_is_left_as_it_is(workspace_root: Path, mixture_directory):
    path = mixture_directory(MixtralConfig, num_local_experts=5, num_experts_per_tok=2, starved=True)
    (workspace_root / "params.yaml").write_text(
        (workspace_root / "params.yaml").read_text().replace(str(workspace_root / "tiny"), str(path))
    )
    model, done = recovered(workspace_root, "magnitude-50", SPARSE | {"trained": "matrices"})
    before, after = (load_file(one.path / "model.safetensors") for one in (model, done))
    same = {name for name in before if torch.equal(before[name], after[name])}
    unmoved = {name for name in same if "experts" in name}
    assert unmoved == {name for name in before if ".experts.0." in name}


def test_zeros_of_a_pruned_checkpoint_without_masks_are_kept(workspace_root: Path):
    """A pruned model from elsewhere says which weights are removed by its zeros alone."""
    pipeline, _ = pipeline_of(workspace_root)
    shutil.copy(pipeline.model("magnitude-50").path / "model.safetensors", workspace_root / "tiny")
    pipeline, _ = pipeline_of(workspace_root)
    done = pipeline.context.run(recover, params_of(SPARSE), inputs_of(pipeline, pipeline.source))
    assert done.facts["sparsity"]["prunable"] == 0.5 and (done.path / "masks.safetensors").is_file()


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_stays_tied(workspace_root: Path, tiny_llama, tied: bool):
    model = tiny_llama(tie_word_embeddings=tied)
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    model.config.save_pretrained(workspace_root / "tiny")
    # Tied or not, the head is in the file.
    save_file(tensors, workspace_root / "tiny" / "model.safetensors", metadata={"format": "pt"})
    _, done = recovered(workspace_root, "magnitude-50", SPARSE)
    stored = load_file(done.path / "model.safetensors")
    assert not torch.equal(stored["model.embed_tokens.weight"], tensors["model.embed_tokens.weight"])
    assert torch.equal(stored["model.embed_tokens.weight"], stored["lm_head.weight"]) == tied


@pytest.mark.parametrize("kind", [MixtralConfig, GraniteMoeConfig])
def test_experts_are_trained_and_stored_as_they_were(workspace_root: Path, mixture_directory, kind):
    path = mixture_directory(kind, num_local_experts=3, num_experts_per_tok=2)
    (workspace_root / "params.yaml").write_text(
        (workspace_root / "params.yaml").read_text().replace(str(workspace_root / "tiny"), str(path))
    )
    model, done = recovered(workspace_root, "magnitude-50", SPARSE)
    before, after = (load_file(one.path / "model.safetensors") for one in (model, done))
    assert {name: value.shape for name, value in after.items()} == {name: value.shape for name, value in before.items()}
    assert done.facts["recovery"]["validation_loss"]["after"] < done.facts["recovery"]["validation_loss"]["before"]
    own = perplexity(load_model(done.path), held_out(pipeline_of(workspace_root)[0])).mean_loss
    assert own == pytest.approx(done.facts["recovery"]["validation_loss"]["after"], abs=1e-5)


def test_windows_are_set_apart_from_all_over_the_text(workspace_root: Path):
    pipeline, _ = pipeline_of(workspace_root)
    every = load_tokens(text_windows(pipeline, 18))
    apart = windows(pipeline)
    assert torch.equal(load_tokens(apart, "validation"), every[::3])
    rest = [place for place in range(18) if place % 3]
    assert torch.equal(load_tokens(apart), every[rest])
    assert apart.facts["dropped"] == {"training": 0, "validation": 0}


def test_other_evaluation_windows_train_nothing_again(workspace_root: Path):
    _, first = recovered(workspace_root, "magnitude-50", SPARSE)
    params = (workspace_root / "params.yaml").read_text()
    assert "windows: 12" in params
    (workspace_root / "params.yaml").write_text(params.replace("windows: 12", "windows: 9"))
    _, again = recovered(workspace_root, "magnitude-50", SPARSE)
    assert again.hit and again.digest == first.digest


def test_text_of_the_evaluation_is_refused(workspace_root: Path):
    pipeline, _ = pipeline_of(workspace_root)
    with pytest.raises(InputError, match="the training text is the evaluation text"):
        windows(pipeline, "drop", evaluation=text_windows(pipeline, 18))


def test_few_windows_that_share_a_little_are_left_out(workspace_root: Path):
    """One that shares all but a token with the evaluation, and one of training that repeats one of validation."""
    pipeline, _ = pipeline_of(workspace_root)
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(5, 40, (80, 100), generator=generator)
    judged = torch.randint(5, 40, (4, 100), generator=generator)
    rows[7, :99] = judged[2, :99]
    rows[9] = rows[16]
    given = {name: stored(pipeline, name, value) for name, value in (("tokens", rows), ("evaluation", judged))}
    with pytest.raises(InputError, match=r"1 of 75 training windows \(the first is 6\) share text"):
        pipeline.context.run(recovery_windows, {"validation": 5, "overlap": "refuse"}, given)
    done = pipeline.context.run(recovery_windows, {"validation": 5, "overlap": "drop"}, given)
    assert done.facts["dropped"] == {"training": 2, "validation": 0}
    left = [place for place in range(80) if place % 16 and place not in (7, 9)]
    assert torch.equal(load_tokens(done), rows[left]) and torch.equal(load_tokens(done, "validation"), rows[::16])
    for count in (80, 81):
        with pytest.raises(InputError, match="none would be left to train on"):
            pipeline.context.run(recovery_windows, {"validation": count, "overlap": "drop"}, given)


def stored(pipeline: Pipeline, name: str, windows: Tensor) -> Artifact:
    folder = pipeline.context.workspace / name
    folder.mkdir()
    save_file({"tokens": windows}, folder / "tokens.safetensors")
    (folder / "manifest.json").write_text(json.dumps({"facts": {"text_digest": name}}))
    return Artifact("tokens", name, name, folder)


def test_a_quantized_variant_is_refused(workspace_root: Path):
    edit(workspace_root, "sparsegpt-50", "quantizer", {"name": "affine", "bits": 4, "group_size": 8})
    with pytest.raises(InputError, match="recover it before it is quantized"):
        recovered(workspace_root, "sparsegpt-50", SPARSE)


def test_a_method_that_learns_from_the_dense_model_needs_it(workspace_root: Path):
    pipeline, _ = pipeline_of(workspace_root)
    inputs = inputs_of(pipeline, pipeline.model("magnitude-50"))
    del inputs["source"]
    with pytest.raises(InputError, match="give it as source"):
        pipeline.context.run(recover, params_of(OTHERS[0]), inputs)
    done = pipeline.context.run(recover, params_of(SPARSE), inputs)
    assert done.facts["recovery"]["validation_loss"]["dense"] is None


def test_gradients_that_would_vanish_are_refused(workspace_root: Path):
    with pytest.raises(InputError, match="recovery runs in float32 or bfloat16, got float16"):
        recovered(workspace_root, "magnitude-50", SPARSE, dtype="float16")


def test_weights_that_the_checkpoints_dtype_cannot_hold_fail_the_run(workspace_root: Path):
    half(workspace_root)
    # Float16 ends at 65,504; one step of Adam moves every weight by the rate.
    with pytest.raises(
        ComputationError, match=r"cannot hold; lower learning_rate|lower learning_rate|validation after"
    ):
        recovered(workspace_root, "magnitude-50", SPARSE | {"learning_rate": 1e5, "clip": None})


def test_a_loss_that_is_no_number_leaves_no_artifact_and_keeps_its_checkpoint(workspace_root: Path):
    pipeline, _ = pipeline_of(workspace_root)
    inputs = inputs_of(pipeline, pipeline.model("magnitude-50"))
    params = params_of(SPARSE | {"learning_rate": 1e30, "clip": None}, checkpoint_every=1)
    with pytest.raises(ComputationError):
        pipeline.context.run(recover, params, inputs)
    assert pipeline.context.store.find(recover.call(params, inputs).key) is None


KILLED = """
import json, sys
from pathlib import Path
from tasks.store.artifact import Artifact
from tasks.progress import reporting
from tasks.steps.recover import recover
from tasks.engine.step import Context
from tasks.store.store import Store

class Lines:
    def start(self, label, total):
        return lambda done: print(label, done, flush=True)

job = json.loads(Path(sys.argv[1]).read_text())
inputs = {name: Artifact.from_reference(one) for name, one in job["inputs"].items()}
with reporting(Lines()):
    Context(Store(Path(sys.argv[2])), Path(sys.argv[2]).parent).run(recover, job["params"], inputs)
"""


def test_a_step_killed_with_signal_9_goes_on_and_gives_the_digest_of_an_uninterrupted_one(
    workspace_root: Path, start, tmp_path: Path
):
    pipeline, _ = pipeline_of(workspace_root)
    inputs = inputs_of(pipeline, pipeline.model("magnitude-50"))
    params = params_of(SPARSE | {"steps": 40}, checkpoint_every=1)
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"params": params, "inputs": {name: one.reference() for name, one in inputs.items()}}))
    process = start(KILLED, job, pipeline.context.store.root)
    while (line := process.stdout.readline()) and line != "recovery 12\n":
        pass
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    scratch = pipeline.context.store.scratch(recover.call(params, inputs).key)
    kept = max(int(path.name.removeprefix("step-")) for path in scratch.glob("step-*"))
    assert 12 <= kept < 40
    resumed = pipeline.context.run(recover, params, inputs)
    whole = replace(pipeline.context, store=Store(tmp_path / "other-store"), driver=direct).run(recover, params, inputs)
    assert not resumed.hit and not whole.hit and resumed.digest == whole.digest
