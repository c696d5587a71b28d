"""The sliced model against the dense one with zeros, for every architecture whose groups can be removed."""

import json
from pathlib import Path

import pytest
import torch
from architectures import KIN, OLDER, REAL
from safetensors.torch import load_file
from structured_models import (
    DENSE,
    WIDE,
    families_of,
    label,
    logits,
    masked,
    opened,
    saved,
    some_plan,
    token_windows,
)
from torch import nn
from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, GPT2Config, LlamaConfig, MixtralConfig

from pruning_core.errors import InputError
from pruning_core.model.whole_model import load_whole
from pruning_core.source import load_model
from pruning_core.structured.coupling import check_coupling
from pruning_core.structured.kept_groups import KeptGroups
from pruning_core.structured.surgery import Replacements, stored_parameters, write_pruned


def assert_sliced_is_masked(directory: Path, out: Path, families: list[str], mode: str) -> None:
    decoder, sites = opened(directory, families)
    plan = some_plan(decoder, sites, mode)
    written = write_pruned(decoder, sites, plan, out)
    tokens = token_windows()
    expected = logits(masked(directory, sites, plan), tokens)
    sliced = load_model(out)
    torch.testing.assert_close(logits(sliced, tokens), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(logits(load_whole(out), tokens), expected, rtol=0, atol=1e-4)
    stored = sum(tensor.numel() for tensor in load_file(out / "model.safetensors").values())
    assert written["parameters"] == stored == plan.after < plan.before
    if mode == "uniform":
        stock = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
        assert torch.equal(logits(stock, tokens), logits(sliced, tokens))


@pytest.mark.parametrize("config", DENSE, ids=label)
def test_blocks_of_different_widths_compute_what_the_masked_model_does(config, tmp_path: Path):
    directory = saved(config, tmp_path / "dense")
    assert_sliced_is_masked(directory, tmp_path / "sliced", families_of(config), "heterogeneous")


@pytest.mark.parametrize("config", [c for c in DENSE if c.model_type != "bloom"], ids=label)
def test_channels_of_equal_number_load_with_transformers_itself(config, tmp_path: Path):
    assert_sliced_is_masked(saved(config, tmp_path / "dense"), tmp_path / "sliced", ["mlp"], "uniform")


@pytest.mark.parametrize("config", [c for c in DENSE if getattr(c, "num_key_value_heads", 4) == 2], ids=label)
def test_queries_alone_can_go_where_several_share_a_key(config, tmp_path: Path):
    if families_of(config) == ["mlp"]:
        return
    directory = saved(config, tmp_path / "dense")
    assert_sliced_is_masked(directory, tmp_path / "sliced", ["mlp", "query"], "heterogeneous")


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("families", [["mlp", "attention"], ["mlp"]])
def test_real_models_compute_what_they_do_with_zeros(shared: Path, name: str, families: list[str], tmp_path: Path):
    assert_sliced_is_masked(shared / "models" / name, tmp_path, families, "heterogeneous")


@pytest.mark.parametrize("config", DENSE, ids=label)
def test_groups_found_by_name_are_coupled_as_found(config, tmp_path: Path):
    decoder, sites = opened(saved(config, tmp_path), families_of(config))
    check_coupling(decoder, sites, token_windows(1, 6))
    assert all(parameter.is_meta for parameter in decoder.blocks.parameters())
    # The same rows read one place further are not.
    site = sites[0]
    wrong = [type(m)(m.matrix, m.parameter, m.part, m.axis, m.index.roll(int(m.consumes), 0)) for m in site.members]
    moved = type(site)(site.block, site.family, site.groups, tuple(wrong), site.sizes, site.heads)
    with pytest.raises(InputError, match="reaches other groups"):
        check_coupling(decoder, [moved], token_windows(1, 6))


def transformers_own(directory: Path, decoder, sites, kept: dict, out: Path) -> nn.Module:
    """The model with what is `kept` as transformers itself loads it, seen to compute what the masked one does."""
    before, _ = stored_parameters(decoder)
    plan = KeptGroups("uniform", kept, before, before - sum(site.group_size for site in sites))
    write_pruned(decoder, sites, plan, out)
    stock = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    tokens = token_windows()
    torch.testing.assert_close(logits(stock, tokens), logits(masked(directory, sites, plan), tokens), rtol=0, atol=1e-4)
    return stock


def test_heads_of_an_explicit_width_load_with_transformers_itself(tmp_path: Path):
    directory = saved(
        LlamaConfig(**KIN | {"hidden_size": 24, "head_dim": 6, "num_key_value_heads": 4}), tmp_path / "dense"
    )
    decoder, sites = opened(directory, ["attention"])
    kept = {site.name: (0, 2, 3) if site.block else (1, 2, 3) for site in sites}
    stock = transformers_own(directory, decoder, sites, kept, tmp_path / "sliced")
    assert (stock.config.num_attention_heads, stock.config.num_key_value_heads, stock.config.head_dim) == (3, 3, 6)


def test_four_queries_to_a_key_go_with_it(tmp_path: Path):
    directory = saved(LlamaConfig(**WIDE), tmp_path / "dense")
    decoder, sites = opened(directory, ["attention"])
    assert sites[0].heads.per_group == 4
    kept = {site.name: (site.block % 2,) for site in sites}
    stock = transformers_own(directory, decoder, sites, kept, tmp_path / "sliced")
    assert (stock.config.num_attention_heads, stock.config.num_key_value_heads) == (4, 1)


@pytest.mark.parametrize("config", [c for c in DENSE if c.model_type in ("llama", "gpt2", "bloom", "phi3")], ids=label)
def test_a_narrow_model_can_be_pruned_again_and_generates(config, tmp_path: Path):
    families = families_of(config)
    decoder, sites = opened(saved(config, tmp_path / "dense"), families)
    write_pruned(decoder, sites, some_plan(decoder, sites), tmp_path / "once")
    decoder, sites = opened(tmp_path / "once", ["mlp"] if config.model_type != "bloom" else families)
    plan = some_plan(decoder, sites)
    write_pruned(decoder, sites, plan, tmp_path / "twice")
    narrow = load_model(tmp_path / "once")
    with torch.no_grad():
        for site in sites:
            for group in plan.removed(site):
                for member in site.members:
                    for position in member.index[group].tolist():
                        narrow.get_parameter(member.name).select(member.axis, position).zero_()
    tokens = token_windows()
    twice = load_model(tmp_path / "twice")
    torch.testing.assert_close(logits(twice, tokens), logits(narrow, tokens), rtol=0, atol=1e-4)
    # With a cache of keys and values whose heads differ by block.
    greedy = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    generated = twice.generate(tokens[:1, :6], use_cache=True, **greedy)
    assert torch.equal(generated, twice.generate(tokens[:1, :6], use_cache=False, **greedy))


def test_weights_keep_the_dtype_and_the_names_of_the_checkpoint(tmp_path: Path):
    model = AutoModelForCausalLM.from_config(LlamaConfig(**KIN)).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "dense")
    decoder, sites = opened(tmp_path / "dense", ["mlp"])
    write_pruned(decoder, sites, some_plan(decoder, sites), tmp_path / "sliced")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("dense", "sliced"))
    assert before.keys() == after.keys() and {tensor.dtype for tensor in after.values()} == {torch.bfloat16}


def test_biases_are_written_where_the_config_can_hold_them(tmp_path: Path):
    directory = saved(LlamaConfig(**KIN), tmp_path / "dense")
    decoder, sites = opened(directory, ["mlp", "attention"])
    plan = some_plan(decoder, sites, "uniform")
    shifts = {f"{site.consumer.matrix}.bias": torch.randn(16) for site in sites}
    write_pruned(decoder, sites, plan, tmp_path / "sliced", Replacements(dict(shifts), ("mlp", "attention")))
    expected = masked(directory, sites, plan)
    for name, shift in shifts.items():
        linear = expected.get_submodule(name.removesuffix(".bias"))
        linear.bias = torch.nn.Parameter(shift)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "sliced", dtype=torch.float32).eval()
    tokens = token_windows()
    torch.testing.assert_close(logits(stock, tokens), logits(expected, tokens), rtol=0, atol=1e-4)


def refusal(config, families: list[str], mode: str, path: Path) -> str:
    with pytest.raises(InputError) as caught:
        decoder, sites = opened(saved(config, path / "dense"), families)
        write_pruned(decoder, sites, some_plan(decoder, sites, mode), path / "sliced")
    assert not list((path / "sliced").glob("*.safetensors"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "families", "mode", "sentence"),
    [
        (MixtralConfig(**KIN, num_local_experts=4), ["mlp"], "uniform", "mixture of experts"),
        (BloomConfig(**OLDER, n_layer=2, n_head=4), ["mlp"], "uniform", "no width for its channels"),
        (
            GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=4),
            ["attention"],
            "uniform",
            "cannot express this plan",
        ),
        (
            LlamaConfig(**KIN | {"num_key_value_heads": 4}),
            ["attention"],
            "uniform",
            "multiple of the number of attention",
        ),
        (
            FalconConfig(**OLDER, num_hidden_layers=2, num_attention_heads=4),
            ["query"],
            "uniform",
            "cannot express this plan",
        ),
        (
            FalconConfig(**OLDER, num_hidden_layers=2, num_attention_heads=4, alibi=True),
            ["query"],
            "heterogeneous",
            "alibi",
        ),
        (LlamaConfig(**KIN), ["attention", "query"], "uniform", "mlp and one of the others"),
        (LlamaConfig(**KIN), ["heads"], "uniform", "'heads' is no family"),
        (LlamaConfig(**KIN), [], "uniform", "got none"),
        (
            next(c for c in DENSE if c.model_type == "olmo2"),
            ["attention"],
            "uniform",
            "q_norm.weight belongs to several",
        ),
    ],
)
def test_what_an_architecture_cannot_have_is_refused_before_a_weight_is_written(
    config, families, mode, sentence, tmp_path
):
    assert sentence in refusal(config, families, mode, tmp_path)


def test_a_config_that_tells_widths_it_cannot_have_is_refused(tmp_path: Path):
    directory = saved(LlamaConfig(**KIN), tmp_path)
    settings = json.loads((directory / "config.json").read_text())

    def loading(**structure):
        (directory / "config.json").write_text(json.dumps(settings | {"espalier_structure": structure}))
        load_model(directory)

    blocks = [{"channels": 24}] * 3
    loading(format=1, blocks=blocks)
    for wrong, sentence in (
        ({"format": 2, "blocks": blocks}, "must have format 1"),
        ({"format": 1, "blocks": blocks[:2]}, "widths of 3 blocks"),
        ({"format": 1, "blocks": [{"channels": 25}] * 3}, "a width that it cannot have"),
        ({"format": 1, "blocks": [{"heads": 3, "key_value_heads": 2}] * 3}, "a width that it cannot have"),
        ({"format": 1, "blocks": [{"chanels": 8}] * 3}, "did you mean 'channels'"),
        ({"format": 1, "blocks": [{"channels": 8}] * 3}, "another shape than its config.json asks for"),
    ):
        with pytest.raises(InputError, match=sentence):
            loading(**wrong)


def test_transformers_alone_does_not_load_blocks_of_different_widths_as_if_they_were_alike(tmp_path: Path):
    decoder, sites = opened(saved(LlamaConfig(**KIN), tmp_path / "dense"), ["mlp", "attention"])
    write_pruned(decoder, sites, some_plan(decoder, sites), tmp_path / "sliced")
    with pytest.raises(RuntimeError, match="mismatch"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "sliced")


def test_a_mixture_may_lose_heads(tmp_path: Path):
    directory = saved(MixtralConfig(**KIN, num_local_experts=4), tmp_path / "dense")
    decoder, sites = opened(directory, ["attention"])
    assert_sliced_is_masked(directory, tmp_path / "sliced", ["attention"], "heterogeneous")
    assert decoder.has_experts and {site.family for site in sites} == {"attention"}
