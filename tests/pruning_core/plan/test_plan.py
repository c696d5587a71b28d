"""The plan of a run against counts of real ones."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from architectures import CONFIGS
from torch import nn
from transformers import GptOssConfig, LlamaConfig, MixtralConfig

from pruning_core.calibration.statistics import _strips
from pruning_core.checkpoint.model_files import read_config
from pruning_core.errors import InputError
from pruning_core.model.decoder import Decoder
from pruning_core.plan.estimate import Planner
from pruning_core.plan.flops import triangle, work_of
from pruning_core.plan.machine_speed import Speed
from pruning_core.plan.memory import MemoryModel
from pruning_core.plan.model_shape import model_shape
from pruning_core.settings.recipe import parse_recipe, parse_settings

OBS = {"saliency": {"name": "obs"}, "pattern": {"name": "unstructured"}, "sparsity": 0.5}
SPARSEGPT = OBS | {"compensation": {"name": "sweep", "block": 8}}
WANDA = {"saliency": {"name": "wanda"}, "pattern": {"name": "unstructured", "scope": "row"}, "sparsity": 0.5}
GPTQ = {"compensation": {"name": "sweep", "block": 8}, "quantizer": {"name": "affine", "bits": 4, "group_size": 8}}
MAGNITUDE = {"saliency": {"name": "magnitude"}, "pattern": {"name": "unstructured", "scope": "row"}, "sparsity": 0.5}
METHODS = {
    "sparsegpt": SPARSEGPT,
    "blockwise": SPARSEGPT | {"propagate": "blockwise"},
    "shared": SPARSEGPT | {"propagate": "dense"},
    "wanda": WANDA,
    "gptq": GPTQ,
    "magnitude": MAGNITUDE,
}
LARGE = LlamaConfig(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, dtype="float16"
)


def seen_by_hooks(directory: Path, tokens: torch.Tensor) -> Counter:
    """Operations of the linear layers of a real model's blocks, counted at each call, by layer name."""
    decoder = Decoder(directory, read_config(directory))
    for index in range(len(decoder)):
        decoder.load_block(index)
    seen: Counter = Counter()
    for name, module in decoder.blocks.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(
                lambda m, args, out, name=name: seen.update({name: 2 * out.numel() * args[0].shape[-1]})
            )
    hidden = decoder.enter(tokens)
    for index, call in enumerate(decoder.calls(tokens)):
        if not index:
            seen.clear()
        with torch.no_grad():
            hidden = call.run(decoder.blocks[index], hidden)
    return seen


def test_linear_layers_and_attention_are_counted_as_a_real_forward_runs_them(tiny_directory: Path):
    tokens = torch.randint(0, 50, (4, 16), generator=torch.Generator().manual_seed(0))
    seen = seen_by_hooks(tiny_directory, tokens)
    del seen["1.mlp.down_proj"]  # Nobody needs what the last block puts out.
    work = work_of(model_shape(read_config(tiny_directory), 4, 16, torch.float32), parse_recipe("a", SPARSEGPT), 4)
    assert work.products == sum(seen.values())
    # Two blocks; scores and values: two products of 16 x 16 x 16 for each of four sequences; half of it is masked.
    assert work.attention == 2 * 4 * (2 * 2 * 16 * 16 * 16) / 2


def test_experts_are_counted_for_the_tokens_that_they_get(mixture_directory):
    directory = mixture_directory(MixtralConfig, num_local_experts=4, num_experts_per_tok=2)
    tokens = torch.randint(0, 50, (4, 16), generator=torch.Generator().manual_seed(0))
    seen = seen_by_hooks(directory, tokens)
    expected = sum(
        count for name, count in seen.items() if not (name.startswith("1.") and name.endswith("down_proj"))
    ) + sum(2 * 64 * 16 * 4 for _ in range(2))
    model = model_shape(read_config(directory), 4, 16, torch.float32)
    work = work_of(model, parse_recipe("a", SPARSEGPT | {"few_tokens": "magnitude"}), 4)
    # The router is no nn.Linear; hooks do not see its product of 64 tokens, 16 inputs and 4 outputs.
    assert work.products == expected
    # Experts that get few tokens also run on all tokens of their layer.
    assert work_of(model, parse_recipe("a", SPARSEGPT), 4).products > expected


@pytest.mark.parametrize("columns", [8, 128, 700, 1024])
def test_the_part_of_a_hessian_that_is_computed_is_counted_entry_by_entry(columns):
    computed = torch.zeros(columns, columns, dtype=torch.bool)
    for start, stop in _strips(columns):
        computed[start:stop, start:] = True
    assert triangle(columns) == int(computed.sum())


def test_solving_costs_what_its_loops_cost():
    model = model_shape(LlamaConfig(**{**LARGE.to_dict(), "num_hidden_layers": 1}), 1, 64, torch.float32)
    work = work_of(model, parse_recipe("a", SPARSEGPT), 1)
    inputs = [4096, 4096, 4096, 11008]
    rows = [3 * 4096, 4096, 2 * 11008, 4096]
    assert work.factor == pytest.approx(sum(2 / 3 * c**3 for c in inputs))
    assert work.sweep == sum(r * c**2 for r, c in zip(rows, inputs, strict=True))
    assert work.statistics == sum(2 * 64 * triangle(c) for c in inputs)


def test_a_paused_forward_holds_the_residual_the_normed_input_and_what_the_group_reads():
    model = model_shape(LARGE, 2, 64, torch.float32)
    tokens, width, inner = 2 * 64, 4096, 11008
    live = [segment.live for segment in model.blocks[0].segments]
    # Before attention the residual is the state that entered the block, which is counted elsewhere.
    assert live[0] == 4 * tokens * width
    assert live[2] == 4 * tokens * 2 * width
    assert live[3] == 4 * tokens * (2 * width + inner)
    assert live[4] == 0 or live[4] == 4 * tokens * width


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_every_architecture_and_method_can_be_planned(config):
    model = model_shape(config, 2, 16, torch.float32)
    for name, spec in METHODS.items():
        recipe = parse_recipe(name, spec)
        phases = MemoryModel(model, recipe, 8, 4.0, 4, "memory", "cpu").phases()
        assert all(math.isfinite(phase.ram) and phase.ram > 0 for phase in phases.values())
        assert ("factor" in phases) == (recipe.method.statistics == "full")
        assert (work_of(model, recipe, 8).products > 0) == recipe.calibrates
    assert model.parameters > model.weights > 0


def test_memory_grows_as_the_settings_say():
    model = model_shape(LARGE, 1, 2048, torch.float32)
    states = 128 * 2048 * 4096 * 4

    def peak(spec, states="memory", device="cpu", sequences=128):
        phases = MemoryModel(model, parse_recipe("a", spec), sequences, 2.0, 4, states, device).phases()
        return max(phase.ram for phase in phases.values()), max(phase.vram for phase in phases.values())

    compressed, mapped = peak(SPARSEGPT)[0], peak(SPARSEGPT, "mapped")[0]
    assert compressed - mapped == pytest.approx(states * 127 / 128, rel=0.01)
    # All forwards wait in front of the down matrices with the residual, its norm and the inner activations.
    waiting = 128 * 2048 * (2 * 4096 + 11008) * 4
    assert compressed > states + waiting
    blockwise = SPARSEGPT | {"propagate": "blockwise"}
    assert peak(blockwise)[0] < compressed - waiting * 0.9
    assert peak(blockwise, "mapped")[0] < compressed / 4
    assert peak(WANDA | {"propagate": "blockwise"})[0] < peak(blockwise)[0]
    ram, vram = peak(SPARSEGPT, device="cuda")
    assert ram < 10e9 < states + waiting < vram
    assert peak(SPARSEGPT, sequences=16)[0] < compressed / 3


# Inputs of q, k and v, of o, of gate and up, and of down; or of that group alone at which most activations wait.
@pytest.mark.parametrize(("propagate", "inputs"), [("blockwise", [4096, 4096, 4096, 11008]), ("compressed", [4096])])
def test_shards_hold_a_second_sum_of_what_is_summed_at_once(propagate, inputs):
    model, recipe = model_shape(LARGE, 1, 2048, torch.float32), parse_recipe("a", SPARSEGPT | {"propagate": propagate})

    def forward(shards: int) -> int:
        held = MemoryModel(model, recipe, 128, 4.0, 4, "mapped", "cpu", shards=shards)
        return held.phases()["forward and statistics"].ram

    assert forward(2) - forward(1) == 4 * sum(width**2 for width in inputs)
    assert forward(8) == forward(2)


def test_a_plan_is_json_and_its_sums_are_those_of_its_parts():
    settings = parse_settings(
        {
            "model": "m",
            "calibration": {"text": {"name": "stdlib"}, "sequences": 16, "length": 512},
            "evaluation": {"text": {"name": "stdlib"}},
            "variants": {"a": SPARSEGPT},
        }
    )
    plan = Planner(LARGE, settings).plan(settings.recipe("a"))
    facts = json.loads(json.dumps(plan.facts()))
    assert facts["parameters"] == pytest.approx(6.74e9, rel=0.01)
    assert facts["disk"]["total"] == sum(v for k, v in facts["disk"].items() if k not in ("total", "kept"))
    assert facts["flops"]["total"] == sum(v for k, v in facts["flops"].items() if k != "total")
    assert facts["ram"]["peak"] == max(v for k, v in facts["ram"].items() if k != "peak")
    # Stored in half precision: two bytes a weight and a bit for the mask.
    assert facts["disk"]["variant"] == pytest.approx(2 * facts["parameters"] + facts["prunable"] / 8, rel=1e-6)
    fast, slow = (sum(plan.seconds(Speed(rate, 1e12, 1e12)).values()) for rate in (2e12, 1e12))
    storing = plan.seconds(Speed(1e12, 1e12, 1e12))["store"]
    assert slow - fast == pytest.approx(fast - 10 - storing - plan.work.moved / 1e12, rel=1e-6)


def test_a_model_that_cannot_be_compressed_cannot_be_planned():
    config = GptOssConfig(num_hidden_layers=1, hidden_size=16, intermediate_size=16, num_local_experts=4, head_dim=8)
    with pytest.raises(InputError, match="experts of GptOss"):
        model_shape(config, 1, 8, torch.float32)


def test_an_allocation_adds_what_finding_it_takes():
    settings = parse_settings(
        {
            "model": "m",
            "calibration": {"text": {"name": "stdlib"}, "sequences": 16, "length": 512},
            "evaluation": {"text": {"name": "stdlib"}},
            "variants": {"a": SPARSEGPT},
        }
    )
    planner = Planner(LARGE, settings)

    def plan(allocation: dict | None):
        return planner.plan(parse_recipe("a", SPARSEGPT | ({"allocation": allocation} if allocation else {})))

    plain, uniform, fisher = plan(None), plan({"name": "uniform"}), plan({"name": "by_sensitivity"})
    assert uniform.facts() == plain.facts()
    # The gradient of a sequence needs the whole model, and twice the forward's work again.
    whole = 4 * fisher.model.parameters
    assert whole < fisher.memory["allocation"].ram < 1.5 * whole and "allocation" not in plain.memory
    forward = 2 * plain.model.weights * 16 * 512
    assert fisher.work.products - plain.work.products == pytest.approx(3 * forward, rel=1e-6)
    owl = plan({"name": "owl"})
    assert owl.work.products - plain.work.products == pytest.approx(forward, rel=1e-6)
    shared = planner.plan(parse_recipe("a", SPARSEGPT | {"propagate": "dense"}))
    assert owl.memory["dense statistics"] == shared.memory["forward and statistics"]
    assert owl.disk.statistics == 32 * 4 * (3 * 4096**2 + 11008**2) and not owl.disk.levels
    knapsack = plan({"name": "knapsack", "errors": "output", "levels": 8})
    # Steps of equal numbers of weights: of 7 matrices of mean size, 4 of width 4096 and 3 of 4096 x 11008.
    square, long = 4096**2, 4096 * 11008
    mean = (4 * square + 3 * long) / 7
    count = 1 + 8 * (4 * square**2 + 3 * long**2) / 7 / mean**2
    # Half of the weights in half precision, and a bit for each, at every level.
    assert knapsack.disk.levels == pytest.approx(count * plain.model.weights * (1 + 1 / 8))
    kept = planner.plan(parse_recipe("a", SPARSEGPT | {"allocation": {"name": "knapsack", "granularity": "block"}}))
    assert kept.work.sweep > knapsack.work.sweep > 8 * plain.work.sweep
    given = {"generations": 10, "offspring": 16, "survivors": [4, 1], "tokens": [1024, 8192], "population": 12}
    given |= {"validation": 32, "length": 256, "initial": [], "probes": 0}
    search = plan({"name": "evolutionary"} | given)
    # Per generation two stages, the parent once more, and the validation windows; before them the population.
    judged = 10 * (16 * 1024 + 4 * 8192 + 8192 + 32 * 256) + 12 * 8192
    made = knapsack.work.products - plain.work.products
    assert search.work.products - plain.work.products - made == pytest.approx(2 * plain.model.weights * judged)
    workers = settings.compute.workers.number
    assert search.memory["allocation"].ram > workers * whole
