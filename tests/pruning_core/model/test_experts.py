"""Mixtures of experts: statistics, stages and the rule for few tokens against slow, obvious computations."""

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig, Qwen2MoeConfig, Qwen3MoeConfig

from pruning_core.calibration.collect import collect, groups_of, propagate
from pruning_core.calibration.expert_statistics import PooledStatistics
from pruning_core.calibration.few_tokens import too_few
from pruning_core.calibration.hidden_states import HiddenStates
from pruning_core.calibration.staged_forward import InputGroup
from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.compress.block import BlockCompressor, compress_block, compress_block_from
from pruning_core.compress.method import Method
from pruning_core.errors import ComputationError
from pruning_core.model.decoder import Decoder, matrix, set_matrix
from pruning_core.model.experts import Experts
from pruning_core.settings.method import build_method

FIVE = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
KINDS = [
    pytest.param(MixtralConfig, {"num_local_experts": 5}, id="mixtral"),
    pytest.param(Qwen2MoeConfig, FIVE | {"shared_expert_intermediate_size": 20, "mlp_only_layers": [0]}, id="qwen2"),
    pytest.param(Qwen3MoeConfig, FIVE | {"head_dim": 8, "norm_topk_prob": True}, id="qwen3"),
]
LAST = 1
"""The block with experts in all three."""


def method(**keys) -> Method:
    given = {
        "saliency": {"name": "obs"},
        "pattern": {"name": "unstructured"},
        "sparsity": 0.5,
        "compensation": {"name": "sweep", "block": 8},
        "kernel": "torch",
    }
    return build_method(given | keys)


def loaded(directory: Path, sequences: int = 20, batch: int = 6) -> tuple[Decoder, HiddenStates]:
    """The last block, loaded, with the states that enter it: 64 tokens a sequence."""
    decoder = Decoder(directory, AutoConfig.from_pretrained(directory))
    tokens = torch.randint(1, 50, (sequences, 64), generator=torch.Generator().manual_seed(2))
    states = HiddenStates.at_entry(decoder, tokens, batch)
    decoder.load_block(0)
    propagate(decoder, 0, states)
    decoder.drop_block(0)
    decoder.load_block(LAST)
    return decoder, states


def read_by_experts(directory: Path, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Stage and expert -> the rows that each expert of the last block reads in transformers' own model, token by token.

    "all" in the place of an expert's number: all tokens of the layer.
    """
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    seen = []
    experts = model.model.layers[LAST].mlp.experts
    experts.register_forward_pre_hook(lambda module, args: seen.append(args))
    with torch.no_grad():
        model(tokens)
    [(hidden, chosen, _)] = seen
    rows = defaultdict(list)
    for token in range(len(hidden)):
        for expert in chosen[token].tolist():
            rows[f"in {expert}"].append(hidden[token])
    found = {name: torch.stack(listed) for name, listed in rows.items()} | {"in all": hidden}
    for expert in range(5):
        gate, up = experts.gate_up_proj[expert].detach().chunk(2)
        for who in (f"in {expert}", "in all"):
            if who in found:
                own = who.replace("in", "down") if who != "in all" else f"down all {expert}"
                found[own] = nn.functional.silu(found[who] @ gate.T) * (found[who] @ up.T)
    return found


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_each_expert_is_known_by_the_tokens_that_were_routed_to_it(mixture_directory, kind, settings):
    directory = mixture_directory(kind, **settings, starved=True)
    decoder, states = loaded(directory)
    expected = read_by_experts(directory, torch.cat(states.tokens))
    known = dict(entry for entry in collect(decoder, LAST, states) if ".experts." in entry[0].names[0])
    seen = []
    for group, statistics in known.items():
        expert, matrices = group.names[0].split(".")[-2], [name.rpartition(".")[2] for name in group.names]
        stage = "down" if matrices[0] == "down_proj" else "in"
        seen += [(expert, name) for name in matrices]
        if expert == "0":
            rows = expected["down all 0" if stage == "down" else "in all"]
            assert statistics.routed == dict.fromkeys(group.names, 0)
        else:
            rows = expected[f"{stage} {expert}"]
            assert not isinstance(statistics, PooledStatistics)
        assert statistics.tokens == len(rows) and statistics.sequences == 20
        moment = rows.double().T @ rows.double() / len(rows)
        torch.testing.assert_close(statistics.hessian().double(), moment, rtol=1e-4, atol=1e-5)
    assert sorted(seen) == sorted((str(e), name) for e in range(5) for name in ("gate_proj", "up_proj", "down_proj"))


def test_all_experts_with_too_few_tokens_are_calibrated_on_one_hessian_of_the_layer(mixture_directory):
    directory = mixture_directory(MixtralConfig, num_local_experts=5)
    decoder, states = loaded(directory, sequences=3, batch=2)
    expected = read_by_experts(directory, torch.cat(states.tokens))
    pooled = [entry for entry in collect(decoder, LAST, states) if isinstance(entry[1], PooledStatistics)]
    statistics = pooled[0][1]
    assert [len(entry[0].names) for entry in pooled] == [10, 1, 1, 1, 1, 1]
    assert {name.split(".")[-2]: count for name, count in statistics.routed.items()} == {
        str(expert): len(expected[f"in {expert}"]) for expert in range(5)
    }
    for known, rows in zip(pooled, ["in all", *(f"down all {expert}" for expert in range(5))], strict=True):
        moment = expected[rows].double().T @ expected[rows].double() / 192
        torch.testing.assert_close(known[1].hessian().double(), moment, rtol=1e-4, atol=1e-5)


def one_forward_per_stage(directory: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The true-sequential scheme, literally: for each group run everything again, watching the linear layers alone."""
    decoder, states = loaded(directory)
    linears = decoder.linears(LAST)
    [experts] = [module for module in decoder.blocks[LAST].modules() if isinstance(module, Experts)]
    order = [["q_proj", "k_proj", "v_proj"], ["o_proj"]]
    order += [["shared_expert.gate_proj", "shared_expert.up_proj"], ["shared_expert.down_proj"]]
    groups = [[name for name in linears if name.endswith(tuple(short))] for short in order]
    stages = [
        [[name for name in linears if f"experts.{expert}." in name and name.endswith(short)] for expert in range(5)]
        for short in (("gate_proj", "up_proj"), ("down_proj",))
    ]
    for stage in [*([group] for group in groups), *stages]:
        inputs, layer = defaultdict(list), []
        hooks = [experts.register_forward_pre_hook(lambda module, args, kept=layer: kept.append(args[0]))]
        for group in stage:
            keep = inputs[group[0]].append
            watched = linears[group[0]]
            hooks.append(watched.register_forward_pre_hook(lambda module, args, k=keep: k(args[0].flatten(0, -2))))
        run(decoder, states)
        for hook in hooks:
            hook.remove()
        for group in stage:
            rows = torch.cat([torch.empty(0, matrix(linears[group[0]]).shape[1]), *inputs[group[0]]])
            if ".experts." in group[0] and len(rows) < 256:
                rows = torch.cat(layer)
                if group[0].endswith("down_proj"):
                    own = experts.get_submodule(group[0].split(".")[-2])
                    rows = nn.functional.silu(own.gate_proj(rows)) * own.up_proj(rows)
            prepared = method().prepare(LayerStatistics.from_inputs(rows))
            for name in group:
                set_matrix(linears[name], method().compress(matrix(linears[name]), prepared).weight)
    return {name: matrix(module).clone() for name, module in linears.items()}, torch.cat(run(decoder, states))


def run(decoder: Decoder, states: HiddenStates) -> list[torch.Tensor]:
    with torch.no_grad():
        return [forward() for forward in states.forwards(decoder, LAST)]


def test_one_staged_forward_equals_a_forward_per_stage(mixture_directory):
    settings = FIVE | {"shared_expert_intermediate_size": 20}
    directory = mixture_directory(Qwen2MoeConfig, **settings, starved=True)
    expected, outputs = one_forward_per_stage(directory)
    decoder, states = loaded(directory)
    compress_block(decoder, LAST, states, method(), "compressed")
    assert len(expected) == 4 + 3 + 15
    for name, module in decoder.linears(LAST).items():
        torch.testing.assert_close(matrix(module), expected[name], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(torch.cat(states.batches), outputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("tokens", "in_features", "few"), [(255, 16, True), (256, 1024, False), (511, 2048, True), (512, 2048, False)]
)
def test_too_few_is_below_a_quarter_of_the_inputs_or_256(tokens: int, in_features: int, few: bool):
    assert too_few(tokens, in_features) is few


@pytest.mark.parametrize("propagation", ["compressed", "blockwise", "dense"])
@pytest.mark.parametrize("rule", ["layer", "magnitude"])
def test_an_expert_without_tokens_keeps_half_of_its_weights_and_is_told(mixture_directory, rule: str, propagation: str):
    decoder, states = loaded(mixture_directory(MixtralConfig, num_local_experts=5, starved=True))
    chosen = method(few_tokens=rule)
    if propagation == "dense":
        done = compress_block_from(decoder, LAST, collect(decoder, LAST, states), chosen)
    else:
        done = compress_block(decoder, LAST, states, chosen, propagation)
    starved = [f"model.layers.1.mlp.experts.0.{name}" for name in ("gate_proj", "up_proj", "down_proj")]
    event = {"event": "few_tokens", "tokens": 0, "rule": rule}
    assert done.ledger == [{"layer": name, **event} for name in starved]
    assert len(done.layers) == 4 + 15
    for layer in done.layers:
        assert layer.removed == layer.rows * layer.columns // 2
        assert int(done.weights[layer.stored].count_nonzero()) == layer.removed
    by_expert = [layer.tokens for layer in done.layers if layer.name.endswith("down_proj")]
    assert min(by_expert) == 0 and sum(by_expert) == 2 * 20 * 64


def test_under_the_rule_magnitude_the_largest_weights_of_a_starved_expert_stay_as_they_are(mixture_directory):
    decoder, states = loaded(mixture_directory(MixtralConfig, num_local_experts=5, starved=True))
    before = {name: matrix(module).clone() for name, module in decoder.linears(LAST).items()}
    pattern = {"name": "unstructured", "scope": "matrix"}
    done = compress_block(decoder, LAST, states, method(few_tokens="magnitude", pattern=pattern), "compressed")
    for name in [name for name in before if ".experts.0." in name]:
        largest = before[name].abs() > before[name].abs().median()
        stored = next(layer.stored for layer in done.layers if layer.name == name)
        assert torch.equal(done.keep[name], largest)
        assert torch.equal(done.weights[stored], before[name] * largest)
    assert method(few_tokens="magnitude").modules()[-2:] == [
        "pruning_core.saliency.magnitude",
        "pruning_core.compensation.none",
    ]


def test_under_the_rule_magnitude_a_starved_expert_that_is_only_quantized_is_rounded(mixture_directory):
    decoder, states = loaded(mixture_directory(MixtralConfig, num_local_experts=5, starved=True))
    grids = {"quantizer": {"name": "affine", "bits": 4, "group_size": 8}, "compensation": {"name": "sweep"}}
    name = "model.layers.1.mlp.experts.0.down_proj"
    rounding = build_method(grids | {"compensation": {"name": "none"}})
    expected = rounding.compress(matrix(decoder.linears(LAST)[name]), rounding.prepare(None))
    done = compress_block(decoder, LAST, states, build_method(grids | {"few_tokens": "magnitude"}), "compressed")
    assert torch.equal(done.quantized[f"{name}.codes"], expected.codes)
    assert torch.equal(matrix(decoder.linears(LAST)[name]), expected.weight)


def test_what_is_wrong_with_a_group_of_many_matrices_is_told_in_one_sentence(mixture_directory):
    decoder, _ = loaded(mixture_directory(MixtralConfig, num_local_experts=5), sequences=2)
    group = InputGroup(tuple(decoder.linears(LAST)))
    with pytest.raises(ComputationError, match=r"q_proj, .*o_proj and 15 more: the layer saw no calibration tokens"):
        BlockCompressor(decoder, LAST, method()).compress_group(group, LayerStatistics(16))


def test_under_the_rule_magnitude_no_token_runs_through_an_expert_that_it_was_not_routed_to(mixture_directory):
    decoder, states = loaded(mixture_directory(MixtralConfig, num_local_experts=5, starved=True))
    rows = []
    starved = decoder.blocks[LAST].mlp.experts.get_submodule("0")
    starved.gate_proj.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    compress_block(decoder, LAST, states, method(few_tokens="magnitude"), "compressed")
    assert rows and sum(rows) == 0


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_stored_statistics_and_a_reloaded_block_give_what_a_direct_pass_gives(mixture_directory, kind, settings):
    decoder, states = loaded(mixture_directory(kind, **settings, starved=True))
    entering = HiddenStates(list(states.batches), states.tokens)
    known = collect(decoder, LAST, states, advance=False)
    direct = compress_block(decoder, LAST, states, method(), "blockwise")
    decoder.drop_block(LAST)
    decoder.load_block(LAST)
    stored = compress_block_from(decoder, LAST, known, method())
    assert direct.weights.keys() == stored.weights.keys()
    assert all(torch.equal(direct.weights[name], stored.weights[name]) for name in direct.weights)
    decoder.drop_block(LAST)
    decoder.load_block(LAST, direct.weights)
    assert torch.equal(torch.cat(run(decoder, entering)), torch.cat(states.batches))


def test_what_routes_tokens_is_not_pruned(mixture_directory):
    decoder, _ = loaded(mixture_directory(Qwen2MoeConfig, **FIVE, shared_expert_intermediate_size=20))
    short = {name.removeprefix("model.layers.1.mlp.") for name in decoder.linears(LAST)}
    assert {"shared_expert.gate_proj", "experts.4.down_proj"} <= short
    assert not short & {"gate", "shared_expert_gate"}


def test_all_experts_of_a_layer_are_one_group_for_their_inputs_and_one_for_their_activations(mixture_directory):
    decoder, states = loaded(mixture_directory(Qwen2MoeConfig, **FIVE, shared_expert_intermediate_size=20))
    found = [[name.removeprefix("model.layers.1.") for name in group.names] for group in groups_of(decoder, 1, states)]
    assert found == [
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["self_attn.o_proj"],
        ["mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"],
        ["mlp.shared_expert.down_proj"],
        ["mlp.experts.entering"],
        ["mlp.experts.leaving"],
    ]


@pytest.mark.parametrize("batch", [1, 5, 20])
def test_sequences_are_counted_where_their_tokens_run_flattened(mixture_directory, batch: int):
    directory = mixture_directory(Qwen2MoeConfig, **FIVE, shared_expert_intermediate_size=20)
    decoder, states = loaded(directory, batch=batch)
    assert {statistics.sequences for _, statistics in collect(decoder, LAST, states)} == {20}
