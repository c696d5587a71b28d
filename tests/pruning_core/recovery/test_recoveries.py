"""What holds for every recovery method, and what each computes, beside plain formulas."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from trainable_models import EVERY, SHORT, fits, recover, trainable_model, weights
from transformers import AutoModelForCausalLM, GPT2Config, MixtralConfig, OPTConfig

from pruning_core.errors import ComputationError, InputError
from pruning_core.model.decoder import matrix
from pruning_core.recovery import RECOVERIES
from pruning_core.recovery.training.language_objective import LanguageObjective
from pruning_core.recovery.training.trainable_model import lost_zeros

SIZES = {"vocab_size": 50, "max_position_embeddings": 32, "initializer_range": 0.3}
CONFIGS = [
    GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3),
    OPTConfig(**SIZES, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16),
    MixtralConfig(
        **SIZES,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=3,
    ),
]


def test_every_method_is_tried_here():
    assert sorted(EVERY) == RECOVERIES.names()


@pytest.mark.parametrize("name", EVERY)
def test_a_method_lowers_the_loss_and_no_removed_weight_comes_back(tiny_directory: Path, tmp_path: Path, name: str):
    subject, done = recover(tiny_directory, tmp_path / "run", EVERY[name] | SHORT | {"steps": 20})
    for points in done.curves.values():
        losses = [point["validation_loss"] for point in points]
        # What is pruned on the way begins with the loss of the dense model, and is sparser since the last round began.
        assert losses[-1] < (losses[0] if name != "iterative_magnitude" else losses[5])
    for matrix_name, keep in done.masks.items():
        weight = matrix(subject.decoder.model.get_submodule(matrix_name))
        assert lost_zeros(weight, keep) == 0 and bool((weight[keep] != 0).all())
    if fits(name):
        assert all(torch.equal(done.masks[one], keep) for one, keep in subject.masks.items())
    assert not any(one.requires_grad for one in subject.decoder.model.parameters())


@pytest.mark.parametrize("name", EVERY)
def test_what_is_told_as_changed_is_all_that_changed(tiny_directory: Path, tmp_path: Path, name: str):
    spec = EVERY[name] | SHORT
    before = weights(trainable_model(tiny_directory, tmp_path / "none", masked=fits(name)))
    subject, done = recover(tiny_directory, tmp_path / "run", spec)
    after = weights(subject)
    assert before.keys() == after.keys()
    assert {one for one in before if not torch.equal(before[one], after[one])} == set(done.changed)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
@pytest.mark.parametrize("name", ["sparse_finetune", "masked_lora", "block_reconstruction"])
def test_other_architectures_keep_their_zeros_too(config, name: str, tmp_path: Path):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).eval().save_pretrained(tmp_path / "model")
    subject, done = recover(tmp_path / "model", tmp_path / "run", EVERY[name] | SHORT)
    for matrix_name, keep in done.masks.items():
        assert lost_zeros(matrix(subject.decoder.model.get_submodule(matrix_name)), keep) == 0
    first, *_, last = next(iter(done.curves.values()))
    assert last["validation_loss"] < first["validation_loss"]


def test_sparse_finetuning_takes_the_steps_of_the_formulas(tiny_directory: Path, tmp_path: Path):
    """Adam with decay, written out, on gradients that are masked and then clipped."""
    settings = {"steps": 3, "batch": 4, "learning_rate": 0.02, "warmup": 1, "clip": 0.1, "weight_decay": 0.2}
    spec = {"name": "sparse_finetune", "micro_batch": 3} | settings
    subject = trainable_model(tiny_directory, tmp_path / "run")
    method = RECOVERIES.build(spec)
    expected = {name: value.double() for name, value in weights(subject).items()}
    model = AutoModelForCausalLM.from_pretrained(tiny_directory, dtype=torch.float64).eval()
    first = {name: torch.zeros_like(value) for name, value in expected.items()}
    second = {name: torch.zeros_like(value) for name, value in expected.items()}
    rates = [0.02, 0.02, 0.01]
    for step, rate in enumerate(rates):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(expected[name])
        tokens = subject.tokens[method.rows(step, 10)]
        logits = model(tokens).logits[:, :-1]
        model.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        masked = {name: one.grad.clone() for name, one in model.named_parameters()}
        for name, keep in subject.masks.items():
            masked[f"{name}.weight"] *= keep
        norm = sum(one.square().sum() for one in masked.values()).sqrt()
        assert norm > 0.1
        for name, gradient in masked.items():
            gradient = gradient * 0.1 / (norm + 1e-6)
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient.square()
            mean, square = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
            decay = 0.2 if expected[name].dim() > 1 else 0.0
            expected[name] = expected[name] * (1 - rate * decay) - rate * mean / (square.sqrt() + 1e-8)
            if name.removesuffix(".weight") in subject.masks:
                expected[name] *= subject.masks[name.removesuffix(".weight")]
    method.recover(subject)
    for name, value in weights(subject).items():
        # Adam divides by the root of a square: a gradient near zero, noise in float32, moves its weight as a large one.
        torch.testing.assert_close(value.double(), expected[name], rtol=0, atol=2e-4)


def test_a_mask_in_the_product_takes_the_steps_of_one_that_is_projected(tiny_directory: Path, tmp_path: Path):
    spec = {"name": "sparse_finetune", "weight_decay": 0.1} | SHORT
    projected, _ = recover(tiny_directory, tmp_path / "a", spec)
    product, _ = recover(tiny_directory, tmp_path / "b", spec | {"form": "product"})
    for name, value in weights(projected).items():
        torch.testing.assert_close(weights(product)[name], value, rtol=0, atol=1e-6)


def test_only_matrices_are_trained_where_that_is_asked(tiny_directory: Path, tmp_path: Path):
    subject, done = recover(
        tiny_directory, tmp_path / "run", EVERY["sparse_finetune"] | SHORT | {"trained": "matrices"}
    )
    assert set(done.changed) == {f"{name}.weight" for name in subject.masks}


def test_distillation_adds_the_softened_divergence_to_the_cross_entropy(tiny_directory: Path, tmp_path: Path):
    subject = trainable_model(tiny_directory, tmp_path)
    settings = RECOVERIES.build({"name": "sparse_finetune", "distillation": 0.7, "temperature": 3.0})
    rows = torch.tensor([1, 4])
    tokens = subject.tokens[rows]
    with torch.no_grad():
        own, dense = (one.model(tokens).logits[:, :-1].double() for one in (subject.decoder, subject.teacher))
        found = LanguageObjective(subject, settings, {}).loss(rows)
    p, q = (dense / 3).softmax(-1), (own / 3).softmax(-1)
    divergence = (p * (p / q).log()).sum(-1).mean()
    entropy = -own.log_softmax(-1).gather(-1, tokens[:, 1:, None]).mean()
    assert float(found) == pytest.approx(float(entropy + 0.7 * 9 * divergence), abs=1e-5)


def test_forwards_in_a_shorter_dtype_leave_weights_and_moments_in_float32(tiny_directory: Path, tmp_path: Path):
    subject, _ = recover(tiny_directory, tmp_path / "run", EVERY["sparse_finetune"] | SHORT, dtype="bfloat16")
    plain, _ = recover(tiny_directory, tmp_path / "plain", EVERY["sparse_finetune"] | SHORT)
    assert {value.dtype for value in weights(subject).values()} == {torch.float32}
    difference = [(value - weights(plain)[name]).abs().max() for name, value in weights(subject).items()]
    assert 0 < max(difference) < 0.1


def last_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(max(folder.glob("step-*")) / "state.safetensors")


def test_a_merged_masked_lora_is_the_model_that_was_trained(tiny_directory: Path, tmp_path: Path):
    before = weights(trainable_model(tiny_directory, tmp_path / "none"))
    subject, done = recover(tiny_directory, tmp_path / "run", EVERY["masked_lora"] | SHORT | {"alpha": 6.0})
    trained = last_checkpoint(tmp_path / "run")
    for name, keep in subject.masks.items():
        a, b = (trained[f"parameter.{name}.{part}"] for part in ("a", "b"))
        assert a.shape[0] == b.shape[1] == 2
        expected = torch.where(keep, before[f"{name}.weight"] + 6.0 / 2 * (b @ a), 0.0)
        torch.testing.assert_close(subject.decoder.model.get_parameter(f"{name}.weight"), expected, rtol=0, atol=1e-6)
    # The curve's last point was taken in the unmerged form.
    tokens = subject.validation
    with torch.no_grad():
        logits = subject.decoder.model(tokens).logits[:, :-1]
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert done.curves["model"][-1]["validation_loss"] == pytest.approx(float(loss), abs=1e-6)


def test_lora_merges_to_the_weights_plus_the_low_rank_change(tiny_directory: Path, tmp_path: Path):
    spec = EVERY["lora"] | SHORT | {"alpha": 6.0, "modules": ["q_proj", "down_proj"], "keep": "last"}
    before = weights(trainable_model(tiny_directory, tmp_path / "none", masked=False))
    subject, done = recover(tiny_directory, tmp_path / "run", spec)
    trained = last_checkpoint(tmp_path / "run")
    assert len(done.changed) == 4
    for name in done.changed:
        stem = f"parameter.base_model.model.{name.removesuffix('.weight')}"
        a, b = (trained[f"{stem}.lora_{part}.default.weight"] for part in "AB")
        torch.testing.assert_close(
            subject.decoder.model.get_parameter(name), before[name] + 3.0 * (b @ a), rtol=0, atol=1e-6
        )
    assert not any("lora" in name for name, _ in subject.decoder.model.named_modules())


def test_the_result_has_the_best_validation_loss_where_that_is_asked(tiny_directory: Path, tmp_path: Path):
    # Text of another kind, on which the model gets worse after a while.
    other = torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(7))
    subject = replace(trainable_model(tiny_directory, tmp_path / "run"), validation=other)
    done = RECOVERIES.build(EVERY["sparse_finetune"] | SHORT | {"steps": 20, "keep": "best"}).recover(subject)
    losses = [point["validation_loss"] for point in done.curves["model"]]
    assert min(losses) < losses[-1]
    tokens = subject.validation
    with torch.no_grad():
        logits = subject.decoder.model(tokens).logits[:, :-1]
    assert float(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())) == pytest.approx(min(losses), abs=1e-6)


def refused(directory: Path, tmp_path: Path, spec: dict, words: str, **settings) -> None:
    with pytest.raises(InputError, match=words):
        RECOVERIES.build(spec).recover(trainable_model(directory, tmp_path / "run", **settings))


def test_lora_on_a_model_without_the_named_modules_is_told_which_there_are(tmp_path: Path):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[0]).save_pretrained(tmp_path / "model")
    words = r"no linear layers called q_proj, k_proj.*; set modules to some of: c_attn, c_proj, c_fc$"
    refused(tmp_path / "model", tmp_path, EVERY["lora"] | SHORT, words, masked=False)


def test_methods_that_cannot_work_on_a_model_say_which_can(tiny_directory: Path, tmp_path: Path):
    refused(tiny_directory, tmp_path, EVERY["lora"] | SHORT, "use masked_lora")
    refused(tiny_directory, tmp_path, EVERY["masked_lora"] | SHORT, "use lora", masked=False)
    refused(tiny_directory, tmp_path, EVERY["block_reconstruction"] | SHORT, "the dense model, which", teacher=None)
    distilled = EVERY["sparse_finetune"] | SHORT | {"distillation": 0.5}
    refused(tiny_directory, tmp_path, distilled, "the dense model, which", teacher=None)


def test_masks_that_are_not_the_models_are_refused(tiny_directory: Path, tmp_path: Path):
    subject = trainable_model(tiny_directory, tmp_path / "run")
    name, keep = next(iter(subject.masks.items()))
    subject.masks[name] = keep.roll(1, dims=1)
    with pytest.raises(InputError, match=rf"{name} has \d+ weights that its mask removes"):
        RECOVERIES.build(EVERY["sparse_finetune"] | SHORT).recover(subject)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "sparse_finetune", "steps": 3, "epochs": 1.0}, "steps and epochs both say how long"),
        ({"name": "sparse_finetune", "temperature": 2.0}, "temperature changes nothing without distillation"),
        ({"name": "sparse_finetune", "learning_rate": "1e-4"}, "write 0.0001"),
        ({"name": "sparse_finetune", "stepz": 3}, "did you mean 'steps'"),
        ({"name": "masked_lora", "rank": 0}, "rank"),
        ({"name": "lora", "modules": []}, "modules"),
        ({"name": "iterative_magnitude"}, "sparsity is missing"),
        ({"name": "iterative_magnitude", "sparsity": 0.5, "keep": "best"}, "would bring removed weights back"),
        ({"name": "iterative_magnitude", "sparsity": 0.5, "scored": 4}, "scored changes nothing"),
        ({"name": "iterative_magnitude", "sparsity": 0.5, "pattern": {"name": "unstructured"}}, "scope row or matrix"),
        ({"name": "iterative_magnitude", "sparsity": 0.5, "pattern": {"name": "n_of_m", "n": 2, "m": 4}}, "fixes it"),
    ],
)
def test_wrong_settings_are_one_sentence(spec: dict, words: str):
    with pytest.raises(InputError, match=words):
        RECOVERIES.build(spec)


def test_a_warm_up_as_long_as_the_run_is_refused(tiny_directory: Path, tmp_path: Path):
    refused(
        tiny_directory,
        tmp_path,
        EVERY["sparse_finetune"] | SHORT | {"warmup": 6},
        "a warm-up of 6 steps leaves none of 6",
    )


def test_windows_of_another_vocabulary_are_refused(tiny_directory: Path, tmp_path: Path):
    subject = trainable_model(tiny_directory, tmp_path / "run")
    subject.tokens[0, 0] = 50
    with pytest.raises(InputError, match="the windows hold token 50"):
        RECOVERIES.build(EVERY["sparse_finetune"] | SHORT).recover(subject)


def test_a_removed_weight_that_comes_back_fails_the_run(tiny_directory: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("pruning_core.recovery.training.loop.Objective.project", lambda self, optimizer: None)
    monkeypatch.setattr("pruning_core.recovery.training.loop.Objective.mask_gradients", lambda self: None)
    with pytest.raises(ComputationError, match="removed weights came back"):
        recover(tiny_directory, tmp_path / "run", EVERY["sparse_finetune"] | SHORT)
