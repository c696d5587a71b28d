"""Recipes for smaller models and gradual pruning: the groups that go are those of their papers' plain formulas."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig

from pruning_core.settings.recipe import Recipe, parse_recipe
from tasks.pipeline.variant import Pipeline
from tasks.steps.hidden_states import load_tokens
from tasks.store.artifact import Artifact
from tasks.workspace.params import read_params
from tasks.workspace.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
BLOCKS, CHANNELS, KEY_HEADS, PER_KEY = 4, 24, 4, 2


@pytest.fixture(scope="module")
def published() -> dict[str, Recipe]:
    variants = read_params(ROOT / "params.yaml", ["@recipes/structured.yaml"])["variants"]
    return {name: parse_recipe(name, spec) for name, spec in variants.items()}


@pytest.fixture
def pipeline(workspace_root: Path, published: dict[str, Recipe]) -> Pipeline:
    """Of a model with blocks enough to protect some, and the recipes without their training."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=CHANNELS,
        num_hidden_layers=BLOCKS,
        num_attention_heads=KEY_HEADS * PER_KEY,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=64,
    )
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(workspace_root / "tiny")
    params = yaml.safe_load((workspace_root / "params.yaml").read_text())
    params["variants"] = {name: one.compression_spec for name, one in published.items() if one.structured}
    (workspace_root / "params.yaml").write_text(yaml.safe_dump(params))
    workspace = Workspace.open(workspace_root)
    return Pipeline(workspace.context(), workspace.settings)


def dense(pipeline: Pipeline) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(pipeline.source.path, dtype=torch.float32).eval()


def removed(model: Artifact) -> dict[str, set[int]]:
    """Site -> groups that are gone."""
    sizes = {"mlp": CHANNELS, "attention": KEY_HEADS}
    kept = json.loads((model.path / "plan.json").read_text())["kept"]
    return {site: set(range(sizes[site.partition(".")[2]])) - set(groups) for site, groups in kept.items()}


def members(model: nn.Module, index: int, family: str) -> list[tuple[Tensor, list[list[int]], int]]:
    """(weight, the rows or columns of every group, axis) of each matrix that a family's groups own."""
    layer = model.model.layers[index]
    if family == "mlp":
        single, own = [[channel] for channel in range(CHANNELS)], layer.mlp
        producers = [(own.gate_proj.weight, single, 0), (own.up_proj.weight, single, 0)]
        return [*producers, (own.down_proj.weight, single, 1)]
    width = layer.self_attn.head_dim
    keys = [list(range(head * width, (head + 1) * width)) for head in range(KEY_HEADS)]
    queries = [list(range(head * width * PER_KEY, (head + 1) * width * PER_KEY)) for head in range(KEY_HEADS)]
    own = layer.self_attn
    producers = [(own.q_proj.weight, queries, 0), (own.k_proj.weight, keys, 0), (own.v_proj.weight, keys, 0)]
    return [*producers, (own.o_proj.weight, queries, 1)]


def test_llm_pruner_removes_what_the_mixed_taylor_score_holds_least_in_every_block_between(
    pipeline: Pipeline, published: dict[str, Recipe]
):
    model = dense(pipeline)
    windows = load_tokens(pipeline.calibration)
    slopes: dict[int, list[Tensor]] = {id(weight): [] for weight in model.parameters()}
    for window in windows[:10]:
        model.zero_grad()
        model(input_ids=window[None], labels=window[None]).loss.backward()
        for weight in model.parameters():
            slopes[id(weight)].append(weight.grad.double().clone())
    gone = removed(pipeline.model("llm-pruner-20"))
    for index in range(BLOCKS):
        for family in ("mlp", "attention"):
            scores = 0.0
            for weight, groups, axis in members(model, index, family):
                own, each = weight.detach().double(), torch.stack(slopes[id(weight)])
                terms = (own * each.mean(0) - own.square() * each.square().mean(0) / 2).abs()
                scores = scores + torch.stack([terms.index_select(axis, torch.tensor(g)).sum() for g in groups])
            here = gone[f"{index}.{family}"]
            assert here == set(scores.argsort()[: len(here)].tolist())
            assert bool(here) == (0 < index < BLOCKS - 1)
    # The budget may take one more of a block than of the other.
    assert abs(len(gone["1.mlp"]) - len(gone["2.mlp"])) <= 1


def test_flap_removes_what_fluctuates_least_anywhere_and_gives_back_its_mean(pipeline: Pipeline):
    model, windows = dense(pipeline), load_tokens(pipeline.calibration)
    inputs: dict[str, list[Tensor]] = {}
    for name, module in model.named_modules():
        if name.endswith(("down_proj", "o_proj")):
            module.register_forward_hook(
                lambda _, given, __, name=name: inputs.setdefault(name, []).append(given[0].double().flatten(0, 1))
            )
    with torch.no_grad():
        model(input_ids=windows)
    scored = []
    for index in range(BLOCKS):
        for family, consumer in (("mlp", "mlp.down_proj"), ("attention", "self_attn.o_proj")):
            seen = torch.cat(inputs[f"model.layers.{index}.{consumer}"])
            weight, groups, _ = members(model, index, family)[-1]
            metric = seen.var(0, correction=0) * weight.detach().double().square().sum(0)
            metric = metric.square() if family == "attention" else metric
            standard = (metric - metric.mean()) / metric.std(correction=0)
            for group, own in enumerate(groups):
                scored.append((float(standard[own].mean()), f"{index}.{family}", group))
    done = pipeline.model("flap-20")
    gone = removed(done)
    count = sum(map(len, gone.values()))
    lowest = {(site, group) for _, site, group in sorted(scored)[:count]}
    # At the end of the budget a channel may fit where the head before it does not.
    assert len(lowest - {(site, group) for site, groups in gone.items() for group in groups}) <= 1
    assert count > 3 and {refit["event"] for refit in done.facts["reconstruction"]} == {"mean_as_bias"}


def test_hywia_differs_from_llm_pruner_in_its_score_alone(published: dict[str, Recipe]):
    ours, theirs = published["hywia-20"], published["llm-pruner-20"]
    assert ours.structured.ranking == theirs.structured.ranking and ours.structured.importance.name == "hybrid"
    assert ours.recovery == theirs.recovery and ours.structured.importance.fusion == "probes_and_prior"


@pytest.mark.parametrize("name", ["llm-pruner-20", "hywia-20"])
def test_lora_is_trained_as_llm_pruner_does(published: dict[str, Recipe], name: str):
    lora = published[name].recovery.method
    assert (lora.rank, lora.alpha, lora.dropout, lora.learning_rate) == (8, 16, 0.05, 1e-4)
    assert (lora.default_epochs, lora.batch, lora.micro_batch, lora.warmup, lora.keep) == (2, 64, 4, 100, "best")
    assert len(lora.modules) == 7


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("gradual-magnitude-80", lambda done: 0.8 * (1 - (1 - done) ** 3)),
        ("prune-retrain-80", lambda done: 1 - 0.2**done),
    ],
)
def test_sparsity_grows_along_the_papers_path(published: dict[str, Recipe], name: str, path):
    method = published[name].recovery.method
    assert published[name].method is None and method.score == "magnitude"
    planned = [method.gradual().sparsity_after(round_) for round_ in range(1, method.rounds + 1)]
    assert planned == pytest.approx([path(round_ / method.rounds) for round_ in range(1, method.rounds + 1)])
