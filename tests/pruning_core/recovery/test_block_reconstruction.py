"""Blocks fitted to the dense model's outputs: losses beside hooks on transformers' model, a fit that can be exact."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainable_models import SHORT, magnitude_masks, trainable_model, weights, windows_of
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from pruning_core.errors import InputError
from pruning_core.model.whole_model import load_whole
from pruning_core.recovery import RECOVERIES

SPEC = {"name": "block_reconstruction"} | SHORT


@torch.no_grad()
def seen(model, tokens: torch.Tensor, modules: list[str]) -> list[torch.Tensor]:
    """What modules of transformers' own model put out."""
    caught = {}

    def catch(name):
        return lambda module, args, out: caught.__setitem__(name, out[0] if isinstance(out, tuple) else out)

    handles = [model.get_submodule(name).register_forward_hook(catch(name)) for name in modules]
    model(tokens)
    for handle in handles:
        handle.remove()
    return [caught[name] for name in modules]


def distance(own: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((own.double() - wanted.double()).square().sum() / wanted.double().square().sum())


def test_losses_are_the_relative_distance_to_the_dense_outputs(tiny_directory: Path, tmp_path: Path):
    dense = AutoModelForCausalLM.from_pretrained(tiny_directory, dtype=torch.float32).eval()
    subject = trainable_model(tiny_directory, tmp_path / "run")
    modules = ["model.layers.0.self_attn", "model.layers.0", "model.layers.1.self_attn", "model.layers.1"]
    wanted = seen(dense, subject.validation, modules)
    pruned = seen(subject.decoder.model, subject.validation, modules)
    done = RECOVERIES.build(SPEC).recover(subject)
    recovered = seen(subject.decoder.model, subject.validation, modules)
    assert list(done.curves) == ["block 0 attention", "block 0 mlp", "block 1 attention", "block 1 mlp"]
    for place, points in enumerate(done.curves.values()):
        first, last = points[0]["validation_loss"], points[-1]["validation_loss"]
        assert last < first
        assert last == pytest.approx(distance(recovered[place], wanted[place]), rel=1e-4)
    # The first attention begins as it was pruned; the second has the recovered first block before it.
    assert next(iter(done.curves.values()))[0]["validation_loss"] == pytest.approx(
        distance(pruned[0], wanted[0]), rel=1e-4
    )


def test_the_parts_of_a_block_may_be_fitted_together(tiny_directory: Path, tmp_path: Path):
    subject = trainable_model(tiny_directory, tmp_path / "run")
    done = RECOVERIES.build(SPEC | {"parts": "together"}).recover(subject)
    assert list(done.curves) == ["block 0 whole", "block 1 whole"]
    assert all(points[-1]["validation_loss"] < points[0]["validation_loss"] for points in done.curves.values())
    assert set(done.changed) == {f"{name}.weight" for name in subject.masks}


def test_weights_that_can_reach_the_dense_outputs_do(tiny_llama, tmp_path: Path):
    """The dense model has the zeros too, so that a fit without any error exists."""
    tiny_llama().save_pretrained(tmp_path / "model")
    teacher, student = load_whole(tmp_path / "model"), load_whole(tmp_path / "model")
    masks = magnitude_masks(teacher)
    magnitude_masks(student)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, keep in masks.items():
            weight = student.model.get_parameter(f"{name}.weight")
            weight += 0.1 * keep * torch.randn(weight.shape, generator=draw)
    subject = replace(
        trainable_model(tmp_path / "model", tmp_path / "run"),
        **{"decoder": student, "teacher": teacher, "masks": masks, "tokens": windows_of(24)},
    )
    done = RECOVERIES.build(SPEC | {"steps": 100, "batch": 24, "validate_every": 100}).recover(subject)
    for points in done.curves.values():
        assert points[-1]["validation_loss"] < 0.1 * points[0]["validation_loss"]
    assert done.curves["block 0 attention"][0]["validation_loss"] > 0.02


def test_norms_and_embeddings_stay(tiny_directory: Path, tmp_path: Path):
    before = weights(trainable_model(tiny_directory, tmp_path / "none"))
    subject = trainable_model(tiny_directory, tmp_path / "run")
    RECOVERIES.build(SPEC).recover(subject)
    fixed = [name for name in before if name.removesuffix(".weight") not in subject.masks]
    assert fixed and all(torch.equal(weights(subject)[name], before[name]) for name in fixed)


def test_attention_beside_the_mlp_is_found_too(tmp_path: Path):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = GPTNeoXConfig(vocab_size=50, **sizes, initializer_range=0.3)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    done = RECOVERIES.build(SPEC).recover(trainable_model(tmp_path / "model", tmp_path / "run"))
    assert list(done.curves)[:2] == ["block 0 attention", "block 0 mlp"]
    assert all(points[-1]["validation_loss"] < points[0]["validation_loss"] for points in done.curves.values())


def test_a_dense_model_of_another_shape_is_refused(tiny_llama, tiny_directory: Path, tmp_path: Path):
    for settings, words in (
        ({"num_hidden_layers": 3}, "2 blocks and the dense one 3"),
        ({"hidden_size": 32}, "16 hidden"),
    ):
        tiny_llama(**settings).save_pretrained(tmp_path / words)
        subject = trainable_model(tiny_directory, tmp_path / "run", teacher=load_whole(tmp_path / words))
        with pytest.raises(InputError, match=words):
            RECOVERIES.build(SPEC).recover(subject)
