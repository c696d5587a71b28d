"""The plans of structured variants and of recoveries against counts of real runs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from structured_models import DENSE, families_of, label, opened, saved, some_plan, token_windows
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from trainable_models import fits, trainable_model, windows_of
from transformers import LlamaConfig, PretrainedConfig

from pruning_core.checkpoint.model_files import read_config
from pruning_core.errors import InputError
from pruning_core.evaluation.perplexity import perplexity
from pruning_core.model.skeleton import Skeleton
from pruning_core.model.whole_model import load_whole
from pruning_core.plan.estimate import Planner, ResourceEstimate
from pruning_core.plan.memory import BASE, GAPS
from pruning_core.plan.model_shape import model_shape
from pruning_core.plan.recovery_cost import recovery_cost
from pruning_core.plan.structured_cost import StructuredCost
from pruning_core.plan.structured_widths import narrowed_model
from pruning_core.recovery import RECOVERIES
from pruning_core.recovery.training import checkpoints
from pruning_core.settings.recipe import Settings, parse_settings
from pruning_core.settings.structured import build_structured
from pruning_core.structured.coupling import check_coupling
from pruning_core.structured.scoring_inputs import ScoringInputs
from pruning_core.structured.surgery import write_pruned

aten = torch.ops.aten
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
SMALL = LlamaConfig(**SIZES, num_hidden_layers=4, vocab_size=50, max_position_embeddings=64)
LARGE = LlamaConfig(hidden_size=1024, intermediate_size=3072, num_hidden_layers=4, num_attention_heads=16)
MAGNITUDE = {"saliency": {"name": "magnitude"}, "pattern": {"name": "unstructured", "scope": "row"}, "sparsity": 0.5}
RATIO = {"ratio": 0.25, "of": "blocks", "multiple": 4}
TRAINING = {"steps": 3, "batch": 4, "micro_batch": 2, "warmup": 0, "validate_every": 2}
RECOVERED = {
    "projection": {"name": "sparse_finetune"},
    "product": {"name": "sparse_finetune", "form": "product", "trained": "matrices"},
    "distilled": {"name": "sparse_finetune", "distillation": 1.0},
    "masked_lora": {"name": "masked_lora", "rank": 2},
    "lora": {"name": "lora", "rank": 2},
    "rounds": {"name": "iterative_magnitude", "rounds": 2, "sparsity": 0.5, "score": "wanda", "scored": 4},
    "apart": {"name": "block_reconstruction"},
    "together": {"name": "block_reconstruction", "parts": "together"},
}


def counted(run: Callable[[], object]) -> float:
    """Operations of matrix products and of attention, whose kernels leave the masked half out."""
    halved = {
        aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop_count,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop_count,
    }
    known = {
        op: lambda *args, own=own, **_: own(*args[: 4 if "backward" in str(own) else 3]) // 2
        for op, own in halved.items()
    }
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        run()
    return counter.get_total_flops()


def settings_of(variant: dict, *, sequences: int = 16, length: int = 12, batch: int = 2, **compute) -> Settings:
    text = {"name": "stdlib"}
    return parse_settings(
        {
            "model": "m",
            "calibration": {"text": text, "sequences": sequences, "length": length, "batch": batch},
            "evaluation": {"text": text, "length": length, "batch": 4},
            "compute": {"device": "cpu"} | compute,
            "variants": {"a": variant},
        }
    )


def planned(config: PretrainedConfig, variant: dict, **settings) -> ResourceEstimate:
    settings_of_variant = settings_of(variant, **settings)
    return Planner(config, settings_of_variant).plan(settings_of_variant.recipe("a"))


def shrinking(config: PretrainedConfig, structured: dict, windows: int, length: int, batch: int) -> StructuredCost:
    method = build_structured(structured)
    narrowed = narrowed_model(config, method, torch.float32)
    after = Skeleton(narrowed.config, torch.float32).parameters
    model = model_shape(config, batch, length, torch.float32)
    return StructuredCost(model, narrowed, method, after, windows, 4.0, 4, "cpu")


IMPORTANCES = [
    {"name": "magnitude"},
    {"name": "column"},
    {"name": "fluctuation"},
    {"name": "taylor", "samples": 5},
    {"name": "hybrid", "samples": 3, "probe_tokens": 60},
    {"name": "hybrid", "samples": 3, "probe_tokens": 60, "evidence": "single", "probes": 5, "every": 2},
]


@pytest.mark.slow
@pytest.mark.parametrize("importance", IMPORTANCES, ids=lambda one: one["name"])
def test_the_work_of_an_importance_is_that_of_a_real_run(importance: dict, tmp_path: Path):
    directory = saved(SMALL, tmp_path)
    cost = shrinking(SMALL, {"importance": importance} | RATIO, 16, 20, 2)
    wanted = cost.structured
    decoder, sites = opened(directory, ["mlp", "attention"])
    if "whole" in wanted.importance.needs:
        decoder = load_whole(directory)
    subject = ScoringInputs(decoder, tuple(sites), token_windows(16), 2)

    def run() -> None:
        check_coupling(decoder, sites, torch.arange(8)[None])
        wanted.importance.score(subject)

    work = cost.work()
    assert work.products + work.attention == pytest.approx(counted(run), rel=0.06)


@pytest.mark.parametrize("form", ["static", "absorbing", "bias"])
def test_the_work_of_a_refit_is_that_of_a_real_run(form: str, tmp_path: Path):
    config = LlamaConfig(**SMALL.to_dict() | {"attention_bias": False, "mlp_bias": False})
    directory = saved(config, tmp_path)
    spec = {"importance": {"name": "random"}, "mode": "heterogeneous", "protect_first": 0, "protect_last": 0} | RATIO
    cost = shrinking(config, spec | {"reconstruction": {"form": form, "ridges": [0.01, 0.1]}}, 16, 20, 2)
    decoder, sites = opened(directory, ["mlp", "attention"])
    plan = some_plan(decoder, sites)
    # Another plan than the expected one, of other widths: these are told to the cost.
    kept = {
        (site.block, site.family == "mlp"): len(plan.kept[site.name]) * site.consumer.index.shape[1] for site in sites
    }
    consumers = tuple(dataclasses.replace(one, kept=kept[one.block, one.mlp]) for one in cost.narrowed.consumers)
    cost = dataclasses.replace(cost, narrowed=dataclasses.replace(cost.narrowed, consumers=consumers))
    windows = token_windows(16)
    real = counted(lambda: cost.structured.reconstruction.run(decoder, sites, plan, windows, 2))
    work = cost._refitting(cost.structured.reconstruction)
    assert work.products + work.attention + work.least_squares == pytest.approx(real, rel=0.06)
    # Factors and solutions are no matrix products.
    assert (work.factor > 0) == (form != "bias")


@pytest.mark.slow
@pytest.mark.parametrize("name", RECOVERED)
def test_the_work_of_a_recovery_is_that_of_a_real_run(name: str, tiny_llama, tmp_path: Path):
    spec = RECOVERED[name] | TRAINING
    tiny_llama(num_hidden_layers=3).save_pretrained(tmp_path / "tiny")
    config = read_config(tmp_path / "tiny")
    variant = {"recovery": spec | {"data": {"sequences": 10, "validation": 4}}}
    variant |= MAGNITUDE if fits(spec["name"]) else {}
    chosen = settings_of(variant)
    work = recovery_cost(config, config, chosen.recipe("a"), chosen, 4.0).work()
    subject = trainable_model(tmp_path / "tiny", tmp_path / "checkpoints", masked=fits(spec["name"]))

    def run() -> None:
        for decoder in (subject.teacher, subject.decoder, subject.decoder):
            perplexity(decoder.model, subject.validation, 4)
        RECOVERIES.build(spec).recover(subject)

    assert work.products + work.attention == pytest.approx(counted(run), rel=0.05)


@pytest.mark.parametrize("config", DENSE, ids=label)
@pytest.mark.parametrize("mode", ["uniform", "heterogeneous"])
def test_the_size_of_a_smaller_model_is_told_for_every_architecture(
    config: PretrainedConfig, mode: str, tmp_path: Path
):
    free = {"protect_first": 0, "protect_last": 0} if mode == "heterogeneous" else {}
    spec = {"importance": {"name": "random"}, "families": families_of(config), "mode": mode} | RATIO | free
    method = build_structured(spec)
    if mode == "uniform" and config.model_type == "bloom":
        with pytest.raises(InputError, match="choose mode heterogeneous"):
            narrowed_model(config, method, torch.float32)
        return
    narrowed = narrowed_model(config, method, torch.float32)
    decoder, sites = opened(saved(config, tmp_path), families_of(config))
    scores = method.importance.score(ScoringInputs(decoder, tuple(sites)))
    inside = sum(parameter.numel() for parameter in decoder.blocks.parameters())
    plan = method.ranking.plan(sites, scores, narrowed.skeleton.parameters, inside)
    assert Skeleton(narrowed.config, torch.float32).parameters == plan.after


def test_a_smaller_model_is_written_in_the_size_that_was_told(tmp_path: Path):
    directory = saved(SMALL, tmp_path / "dense")
    estimate = planned(SMALL, {"structured": {"importance": {"name": "magnitude"}} | RATIO}, sequences=4)
    method = build_structured({"importance": {"name": "magnitude"}} | RATIO)
    decoder, sites = opened(directory, ["mlp", "attention"])
    parameters = sum(parameter.numel() for parameter in decoder.model.parameters())
    inside = sum(parameter.numel() for parameter in decoder.blocks.parameters())
    plan = method.ranking.plan(sites, method.importance.score(ScoringInputs(decoder, tuple(sites))), parameters, inside)
    (tmp_path / "small").mkdir()
    write_pruned(decoder, sites, plan, tmp_path / "small")
    written = load_file(tmp_path / "small" / "model.safetensors").values()
    assert estimate.disk.variant == estimate.disk.copies == sum(tensor.nbytes for tensor in written)
    assert estimate.disk.total == 2 * estimate.disk.variant


@pytest.mark.slow
@pytest.mark.parametrize("name", ["projection", "lora", "rounds", "apart"])
@pytest.mark.parametrize(("every", "keep"), [(1, "best"), (4, "last"), (6, "last"), (50, "last")])
def test_checkpoints_never_take_more_disk_than_was_told(
    name: str, every: int, keep: str, tiny_directory: Path, tmp_path: Path, monkeypatch
):
    spec = RECOVERED[name] | TRAINING | {"steps": 7, "keep": "last" if name == "rounds" else keep}
    variant = {"recovery": spec | {"data": {"sequences": 10, "validation": 4}, "checkpoint_every": every}}
    variant |= MAGNITUDE if fits(spec["name"]) else {}
    most = [0]

    def measure(path: Path) -> None:
        files = (tmp_path / "checkpoints").rglob("*.safetensors")
        tensors = [tensor for file in files for key, tensor in load_file(file).items() if not key.startswith("random")]
        most[0] = max(most[0], sum(tensor.nbytes for tensor in tensors if tensor.dim()))

    # Called after every step of writing.
    monkeypatch.setattr(checkpoints, "flush_one", measure)
    subject = trainable_model(
        tiny_directory, tmp_path / "checkpoints", masked=fits(spec["name"]), checkpoint_every=every
    )
    RECOVERIES.build(spec).recover(subject)
    disk = planned(read_config(tiny_directory), variant).disk
    assert disk.checkpoints == most[0] > 0
    assert disk.kept == disk.total - disk.checkpoints - disk.states


def test_memory_is_told_by_phases():
    column = {"importance": {"name": "column"}} | RATIO
    estimate = planned(
        LARGE, {"structured": column | {"reconstruction": {}}, "recovery": {"name": "lora", "warmup": 0}}
    )
    assert list(estimate.memory) == ["importance", "least squares", "surgery", "validation", "recovery"]
    assert "least squares" not in planned(LARGE, {"structured": column}).memory
    assert list(planned(LARGE, {"recovery": RECOVERED["rounds"]}).memory) == ["validation", "recovery"]
    whole = 4 * estimate.model.parameters
    taylor = planned(LARGE, {"structured": column | {"importance": {"name": "taylor"}}})
    # Two moments and the gradients of two windows of what groups own, which is all of the blocks but norms.
    owned = 4 * (estimate.model.parameters - 2 * 32000 * 1024)
    held = taylor.memory["importance"].ram
    beside = BASE["cpu"] + GAPS + 2 * 4 * estimate.model.largest
    assert held - beside == pytest.approx(whole + 4 * owned, rel=0.03)
    assert estimate.memory["importance"].ram < held - whole


@pytest.mark.parametrize(
    ("spec", "each"),
    [
        # Weights, gradients and two moments.
        ({"name": "sparse_finetune"}, 16),
        ({"name": "sparse_finetune", "keep": "best"}, 20),
        ({"name": "sparse_finetune", "distillation": 1.0}, 20),
    ],
)
def test_training_holds_weights_gradients_and_moments(spec: dict, each: int):
    tiny_text = {
        "batch": 2,
        "micro_batch": 1,
        "data": {"sequences": 2, "validation": 1, "length": 4},
        "steps": 3,
        "warmup": 0,
    }
    estimate = planned(LARGE, MAGNITUDE | {"recovery": spec | tiny_text})
    # A gradient on its way to those of the micro-batch before, and a tensor on its way into memory.
    expected = each * estimate.model.parameters + estimate.model.weights + 3 * 4 * estimate.model.largest
    assert estimate.memory["recovery"].ram - BASE["cpu"] - GAPS == pytest.approx(expected, rel=0.03)


def test_what_is_trained_and_how_much_at_once_decide_on_memory():
    def peak(recovery: dict, **settings) -> int:
        return planned(LARGE, MAGNITUDE | {"recovery": recovery}, length=256, **settings).memory["recovery"].ram

    full = peak({"name": "sparse_finetune"})
    assert peak({"name": "sparse_finetune", "micro_batch": 1}) < full
    assert peak({"name": "sparse_finetune", "trained": "matrices"}) < full
    # Neither gradients nor moments of the weights.
    assert peak({"name": "masked_lora"}) < full - 8 * planned(LARGE, MAGNITUDE).model.weights
    blocks = {"name": "block_reconstruction"}
    few, many = (peak(blocks | {"data": {"sequences": count}}) for count in (64, 1024))
    # Inputs of two models, targets, and outputs on the way on.
    assert many - few == pytest.approx((1024 - 64) * 256 * 1024 * 4 * 6 + (1024 - 64) * 256 * 8, rel=0.01)


@pytest.mark.parametrize(
    ("variant", "sentence"),
    [
        ({"structured": {"importance": {"name": "column"}, "ratio": 0.99}}, "would empty a block"),
        ({"structured": {"importance": {"name": "column"}} | RATIO, "recovery": {"name": "masked_lora"}}, "use lora"),
        (MAGNITUDE | {"recovery": {"name": "lora", "warmup": 0}}, "use masked_lora"),
        ({"recovery": {"name": "lora", "warmup": 0, "modules": ["query"]}}, "no linear layers called query"),
        ({"recovery": {"name": "lora"}}, "a warm-up of 100 steps"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_loaded(variant: dict, sentence: str):
    with pytest.raises(InputError, match=sentence):
        planned(SMALL, variant)


def test_a_recovery_without_a_compression_writes_one_model():
    estimate = planned(SMALL, {"recovery": {"name": "sparse_finetune"} | TRAINING})
    assert (
        not estimate.disk.compressed
        and not estimate.disk.blocks
        and estimate.disk.variant == 4 * estimate.model.parameters
    )
    masked = planned(SMALL, MAGNITUDE | {"recovery": {"name": "sparse_finetune"} | TRAINING})
    assert masked.disk.compressed == masked.disk.variant > estimate.disk.variant
    grown = planned(SMALL, {"recovery": RECOVERED["rounds"] | TRAINING})
    assert grown.disk.variant == masked.disk.variant and not grown.disk.compressed


def test_windows_of_the_tests_have_the_length_that_is_planned():
    assert windows_of(10).shape[1] == settings_of(MAGNITUDE).calibration.length
