"""pack-quantized: the integers of a variant, as compressed-tensors and transformers read them."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quantized_variants import WIDE, coded, exported, slow_values, variant
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MixtralConfig

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.checkpoint.layer_facts import LayerFacts
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import InputError
from pruning_core.export import FORMATS
from pruning_core.source import load_model

FORM = FORMATS.build({"name": "compressed_tensors"})
GRIDS = [(4, 8, False), (4, None, True), (3, 8, False), (8, 8, True), (5, None, False), (2, 4, True)]


@pytest.fixture
def directory(tiny_llama, tiny_directory) -> Path:
    """The tiny model with as many heads for keys as for queries: none of its matrices has fewer than 16 rows."""
    tiny_llama(num_key_value_heads=4).save_pretrained(tiny_directory)
    return tiny_directory


def golden(model: StoredModel, name: str) -> torch.Tensor:
    """A weight in float32 by the formula of the grid."""
    if name not in model.whole or model.whole[name].bits is None:
        return model.load(name).float()
    grid = model.grid(model.whole[name])
    columns = [
        grid.scale[:, g] * (grid.codes[:, j].float() - grid.zero[:, g]) for j, g in enumerate(grid.group.tolist())
    ]
    return torch.stack(columns, dim=1)


@given(
    bits=st.integers(2, 8),
    size=st.sampled_from([None, 2, 4, 8]),
    symmetric=st.booleans(),
    widths=st.sampled_from([(16, 24), (16, 40), (32, 16)]),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_codes_and_zero_points_lie_as_the_layout_says(tiny_llama, bits, size, symmetric, widths, seed):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shape = {"hidden_size": widths[0], "intermediate_size": widths[1], "num_key_value_heads": 4}
        tiny_llama(**shape, num_hidden_layers=1).save_pretrained(root / "in")
        model = coded(root / "in", root / "coded", seed, bits, size, symmetric)
        exported(FORM, model, root / "out")
        stored = load_file(root / "out" / "model.safetensors")
        weights = FORM.read(root / "out")
        assert weights.names() == model.names()
        for name, matrix in model.whole.items():
            grid = model.grid(matrix)
            assert stored[f"{name}_shape"].tolist() == [matrix.rows, matrix.columns]
            for row, words in zip(grid.codes, stored[f"{name}_packed"], strict=True):
                assert slow_values(words, bits, matrix.columns) == row.tolist()
            assert (f"{name}_zero_point" in stored) is not symmetric
            if not symmetric:
                for zero, words in zip(grid.zero.T, stored[f"{name}_zero_point"].T, strict=True):
                    assert slow_values(words, bits, matrix.rows) == zero.tolist()
            assert torch.equal(weights.load(name), golden(model, name))


@pytest.mark.parametrize(("bits", "group_size", "symmetric"), GRIDS)
def test_transformers_computes_with_the_very_weights_of_the_variant(directory, tmp_path, bits, group_size, symmetric):
    model = variant(directory, tmp_path / "v", bits=bits, group_size=group_size, symmetric=symmetric)
    facts = exported(FORM, model, tmp_path / "out")
    assert FORM.recognises(tmp_path / "out") and not FORM.recognises(model.directory)
    assert facts["largest_scale_change"] == 0
    ours, theirs = load_model(tmp_path / "out"), AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    found = dict(ours.named_parameters())
    zeros = 0
    for name in model.names():
        assert torch.equal(found[name], golden(model, name))
        assert torch.equal(theirs.get_parameter(name).float(), golden(model, name))
        if name in model.whole:
            removed = ~model.keep(model.whole[name])
            assert not found[name][removed].any()
            zeros += int(removed.sum())
    assert zeros == sum(matrix.removed for matrix in model.matrices) > 0


def test_a_sixteen_bit_model_loads_as_the_weights_file_of_the_variant(tiny_llama, directory, tmp_path):
    tiny_llama(num_key_value_heads=4).half().save_pretrained(directory)
    model = variant(directory, tmp_path / "v", bits=4, group_size=8)
    exported(FORM, model, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name in model.names():
        assert loaded.get_parameter(name).dtype == torch.float16
        assert torch.equal(loaded.get_parameter(name), model.load(name))


def test_scales_of_sixteen_bits_round_each_weight_twice_and_keep_its_zeros(directory, tmp_path):
    model = variant(directory, tmp_path / "v", bits=4, group_size=8)
    form = FORMATS.build({"name": "compressed_tensors", "scale_dtype": "bfloat16"})
    facts = exported(form, model, tmp_path / "out")
    loaded, weights, worst = load_model(tmp_path / "out"), form.read(tmp_path / "out"), 0.0
    for name, matrix in model.whole.items():
        grid, found = model.grid(matrix), loaded.get_parameter(name).detach()
        integers = (grid.codes.float() - grid.zero.repeat_interleave(8, dim=1)).bfloat16()
        assert torch.equal(found, (grid.scale.bfloat16().repeat_interleave(8, dim=1) * integers).float())
        assert torch.equal(found, weights.load(name))
        assert torch.equal(found == 0, grid.weight == 0)
        worst = max(worst, float((grid.scale.bfloat16().float() / grid.scale - 1).abs().max()))
    assert 0 < facts["largest_scale_change"] == pytest.approx(worst)


def test_what_is_not_quantized_is_told_to_the_loader_and_loads_too(directory, tmp_path):
    model = variant(directory, tmp_path / "v", only="layers.0.mlp", bits=4, group_size=8)
    exported(FORM, model, tmp_path / "out")
    ignored = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["ignore"]
    dense = [f"model.layers.{block}.self_attn.{kind}_proj" for block in (0, 1) for kind in "qkvo"]
    dense += [f"model.layers.1.mlp.{kind}_proj" for kind in ("gate", "up", "down")]
    assert ignored == sorted([*dense, "lm_head"])
    loaded = load_model(tmp_path / "out")
    for name in model.names():
        assert torch.equal(loaded.get_parameter(name), golden(model, name))


def test_experts_with_symmetric_grids_load_and_others_are_refused(mixture_directory, tmp_path):
    source = mixture_directory(MixtralConfig, num_local_experts=3)
    model = variant(source, tmp_path / "v", bits=4, group_size=8, symmetric=True)
    exported(FORM, model, tmp_path / "out")
    found, want = load_model(tmp_path / "out").state_dict(), load_model(model.directory).state_dict()
    assert found.keys() == want.keys() and all(torch.equal(found[name], want[name]) for name in want)
    with pytest.raises(InputError, match=r"packed experts such as .* add symmetric: true"):
        FORM.check(variant(source, tmp_path / "w", bits=4, group_size=8))


@pytest.mark.parametrize(
    ("quantizer", "sentence"),
    [
        ({}, "add a quantizer to its recipe, or use --format safetensors"),
        (
            {"bits": 4, "group_size": 8, "order": "activation"},
            "add static_groups: true to the quantizer, or use --format gptq",
        ),
        ({"bits": 4, "group_size": 10}, "no multiple of the group size 10; choose a group_size that divides them"),
        ({"bits": 4, "group_size": 8}, "has so few outputs that .* add symmetric: true"),
    ],
)
def test_a_variant_that_cannot_be_packed_is_refused_in_a_sentence_with_a_way_out(
    tiny_directory, tmp_path, quantizer, sentence
):
    with pytest.raises(InputError, match=sentence):
        FORM.check(variant(tiny_directory, tmp_path / "v", **quantizer))


def test_static_groups_in_the_order_of_activations_are_runs_of_columns_and_load(directory, tmp_path):
    settings = {"bits": 4, "group_size": 8, "order": "activation", "static_groups": True}
    model = variant(directory, tmp_path / "v", **settings)
    exported(FORM, model, tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    assert all(torch.equal(loaded.get_parameter(name), golden(model, name)) for name in model.whole)


def test_matrices_with_different_bits_are_refused(directory, tmp_path):
    model = coded(directory, tmp_path / "v", 0, 4, 8, True)
    layers = [replace(matrix, bits=3) if "down" in matrix.name else matrix for matrix in model.matrices]
    with pytest.raises(InputError, match="this variant has 3 and 4 bits and groups of 8"):
        FORM.check(StoredModel(model.directory, layers))


def test_weights_that_are_stored_transposed_are_refused(tmp_path):
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    name = "transformer.h.0.mlp.c_fc"
    model = StoredModel(tmp_path, [LayerFacts(name, f"{name}.weight", 64, 16, removed=0, bits=4, groups=1)])
    with pytest.raises(InputError, match=r"stored transposed.* --format safetensors"):
        FORM.check(model)


def test_codes_that_are_gone_are_named(directory, tmp_path):
    model = coded(directory, tmp_path / "v", 0, 4, 8, True)
    (model.directory / "quantized.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no quantized\.safetensors, which holds the codes of"):
        FORM.check(StoredModel(model.directory, model.matrices))


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("weight_packed", lambda tensor: tensor[:, :-1]),
        ("weight_scale", lambda tensor: tensor[:-1]),
        ("weight_shape", lambda tensor: tensor * 2),
        ("weight_zero_point", lambda tensor: tensor.float()),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(directory, tmp_path, part, change):
    exported(FORM, coded(directory, tmp_path / "v", 0, 4, 8, False), tmp_path / "out")
    path, name = tmp_path / "out" / "model.safetensors", "model.layers.0.mlp.up_proj"
    tensors = load_file(path)
    tensors[f"{name}.{part}"] = change(tensors[f"{name}.{part}"]).contiguous()
    save_file(tensors, path)
    with pytest.raises(InputError, match="do not fit"):
        FORM.read(tmp_path / "out").load(f"{name}.weight")


def test_a_config_without_integers_is_refused_by_the_reader(tiny_directory, tmp_path):
    shutil.copytree(tiny_directory, tmp_path / "out")
    with pytest.raises(InputError, match="does not tell of one group of packed integers"):
        FORM.read(tmp_path / "out")


def test_half_the_bits_take_half_the_bytes(tiny_llama, tiny_directory, tmp_path):
    tiny_llama(**WIDE).save_pretrained(tiny_directory)
    sizes = []
    for bits in (4, 8):
        exported(FORM, coded(tiny_directory, tmp_path / f"v{bits}", 0, bits, 32, True), tmp_path / f"out{bits}")
        packed = Checkpoint(tmp_path / f"out{bits}")
        sizes.append(sum(packed.bytes(name) for name in packed.names() if name.endswith("weight_packed")))
    parameters = 2 * (4 * 32 * 32 + 3 * 32 * 64)
    assert sizes == [parameters // 2, parameters]
