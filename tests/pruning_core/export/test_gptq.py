"""The GPTQ layout, against a reading word by word of what the first code wrote."""

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quantized_variants import WIDE, coded, exported, variant
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import InputError
from pruning_core.export import FORMATS

FORM = FORMATS.build({"name": "gptq"})
V2 = FORMATS.build({"name": "gptq", "checkpoint_format": "gptq_v2"})


@pytest.fixture
def wide(tiny_llama, tiny_directory) -> Path:
    """The tiny model with widths that the layout can hold."""
    tiny_llama(**WIDE).save_pretrained(tiny_directory)
    return tiny_directory


def at(words: list[int], index: int, bits: int) -> int:
    """Integer `index` of a line. Three bits: ten, one split 2 + 1, ten, one split 1 + 2 and ten in three words."""
    if bits != 3:
        return words[index * bits // 32] >> index * bits % 32 & 2**bits - 1
    first, second, third = words[index // 32 * 3 : index // 32 * 3 + 3]
    place = index % 32
    if place < 10:
        return first >> 3 * place & 7
    if place == 10:
        return first >> 30 | (second & 1) << 2
    if place < 21:
        return second >> 3 * (place - 11) + 1 & 7
    if place == 21:
        return second >> 31 | (third & 3) << 1
    return third >> 3 * (place - 22) + 2 & 7


def unsigned(words: Tensor) -> list[list[int]]:
    return [[word & 0xFFFFFFFF for word in line] for line in words.tolist()]


def slow_rows(tensors: dict[str, Tensor], name: str, bits: int, less: int, rows: list[int]) -> Tensor:
    """[rows, columns] float32 of some rows, one number at a time."""
    words, zeros, scales, group = (tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx"))
    lines, points, owners = unsigned(words.T), unsigned(zeros), group.tolist()
    weight = torch.empty(len(rows), len(group))
    for place, row in enumerate(rows):
        integers = [at(lines[row], j, bits) - at(points[own], row, bits) - less for j, own in enumerate(owners)]
        weight[place] = scales.float()[group.long(), row] * torch.tensor(integers)
    return weight


def golden(model: StoredModel, name: str) -> Tensor:
    grid = model.grid(model.whole[name])
    group = grid.group.long()
    return grid.scale.half().float()[:, group] * (grid.codes.float() - grid.zero[:, group])


@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    size=st.sampled_from([None, 8, 24, 32]),
    symmetric=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_integer_lies_where_the_first_code_put_it(tiny_llama, bits, size, symmetric, seed):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tiny_llama(**WIDE, num_hidden_layers=1).save_pretrained(root / "in")
        model = coded(root / "in", root / "coded", seed, bits, size, symmetric)
        facts = exported(FORM, model, root / "out")
        assert facts["checkpoint_format"] == ("gptq" if symmetric else "gptq_v2")
        stored, weights = load_file(root / "out" / "model.safetensors"), FORM.read(root / "out")
        assert weights.names() == model.names()
        rows = [0, 9, 10, 11, 20, 21, 22, 31]
        for name in model.whole:
            slow = slow_rows(stored, name.removesuffix(".weight"), bits, int(symmetric), rows)
            assert torch.equal(slow, golden(model, name)[rows]) and torch.equal(weights.load(name)[rows], slow)


@pytest.mark.parametrize(
    ("quantizer", "config"),
    [
        ({"bits": 4, "group_size": 32}, {"group_size": 32, "sym": False, "desc_act": False}),
        ({"bits": 4, "symmetric": True}, {"group_size": -1, "sym": True, "desc_act": False}),
        ({"bits": 3, "group_size": 16, "order": "activation"}, {"group_size": 16, "sym": False, "desc_act": True}),
    ],
)
def test_removed_weights_stay_zero_and_the_config_tells_the_grid(wide, tmp_path, quantizer, config):
    model = variant(wide, tmp_path / "v", **quantizer)
    facts = exported(FORM, model, tmp_path / "out")
    # float16 has 11 significant bits: half a step of the last one.
    assert 0 < facts["largest_scale_change"] <= 2**-11
    weights, zeros = FORM.read(tmp_path / "out"), 0
    for name, matrix in model.whole.items():
        weight, removed = weights.load(name), ~model.keep(matrix)
        assert not weight[removed].any()
        assert torch.equal(weight == 0, model.grid(matrix).weight == 0)
        zeros += int(removed.sum())
    assert zeros == sum(matrix.removed for matrix in model.matrices) > 0
    told = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert {key: told[key] for key in config} == config and told["bits"] == quantizer["bits"]
    assert json.loads((tmp_path / "out" / "quantize_config.json").read_text()) == told
    assert FORM.recognises(tmp_path / "out") and not FORM.recognises(model.directory)


def test_both_layouts_stand_for_the_same_weights_and_differ_in_zero_points_alone(wide, tmp_path):
    model = coded(wide, tmp_path / "v", 0, 4, 32, True)
    exported(FORM, model, tmp_path / "first")
    exported(V2, model, tmp_path / "second")
    first, second = (load_file(tmp_path / out / "model.safetensors") for out in ("first", "second"))
    assert {name for name in first if not torch.equal(first[name], second[name])} == {
        name for name in first if name.endswith("qzeros")
    }
    assert set(first["model.layers.0.mlp.up_proj.qzeros"].flatten().tolist()) == {0x77777777}
    weights = FORM.read(tmp_path / "first"), FORM.read(tmp_path / "second")
    assert all(torch.equal(*(side.load(name) for side in weights)) for name in model.names())


def test_a_layer_without_codes_is_told_to_the_loader(wide, tmp_path):
    model = variant(wide, tmp_path / "v", only="layers.1", bits=4, group_size=32)
    exported(FORM, model, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "quantize_config.json").read_text())["dynamic"]
    kinds = [f"self_attn.{kind}_proj" for kind in "qkvo"] + [f"mlp.{kind}_proj" for kind in ("gate", "up", "down")]
    escaped = sorted(f"-:^model\\.layers\\.0\\.{kind.replace('.', chr(92) + '.')}$" for kind in kinds)
    assert sorted(told) == escaped
    weights = FORM.read(tmp_path / "out")
    assert torch.equal(
        weights.load("model.layers.0.mlp.up_proj.weight"), model.load("model.layers.0.mlp.up_proj.weight")
    )


@pytest.mark.parametrize(
    ("quantizer", "sentence"),
    [
        ({}, "add a quantizer to its recipe, or use --format safetensors"),
        ({"bits": 5}, "has codes of 2, 3, 4, 8 bits, not of 5; use --format compressed_tensors"),
    ],
)
def test_a_variant_that_the_layout_cannot_hold_is_refused_with_a_way_out(wide, tmp_path, quantizer, sentence):
    with pytest.raises(InputError, match=sentence):
        FORM.check(variant(wide, tmp_path / "v", **quantizer))


def test_widths_that_are_no_multiples_of_a_word_are_refused(tiny_directory, tmp_path):
    with pytest.raises(InputError, match=r"packs 32 inputs and 32 outputs at a time.*use --format compressed_tensors"):
        FORM.check(coded(tiny_directory, tmp_path / "v", 0, 4, 8, True))


def test_a_zero_point_of_zero_is_refused_where_one_less_is_stored(wide, tmp_path):
    model = coded(wide, tmp_path / "v", 0, 4, 8, False)
    first = FORMATS.build({"name": "gptq", "checkpoint_format": "gptq"})
    with pytest.raises(InputError, match="some that are 0; use --option checkpoint_format=gptq_v2"):
        first.check(model)
    V2.check(model)


def test_scales_that_float16_does_not_have_are_refused(wide, tmp_path):
    model = coded(wide, tmp_path / "v", 0, 4, 8, True)
    path = model.directory / "quantized.safetensors"
    save_file({name: t * 1e6 if name.endswith("scale") else t for name, t in load_file(path).items()}, path)
    with pytest.raises(InputError, match="float16, which the GPTQ layout has, cannot hold the scales"):
        FORM.check(StoredModel(model.directory, model.matrices))


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("qweight", lambda tensor: tensor[:-1]),
        ("qzeros", lambda tensor: tensor[:, :-1]),
        ("scales", lambda tensor: tensor[:, :-1]),
        ("g_idx", lambda tensor: tensor + 99),
        ("g_idx", lambda tensor: tensor.float()),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(wide, tmp_path, part, change):
    exported(FORM, coded(wide, tmp_path / "v", 0, 4, 32, False), tmp_path / "out")
    path, name = tmp_path / "out" / "model.safetensors", "model.layers.0.mlp.up_proj"
    tensors = load_file(path)
    tensors[f"{name}.{part}"] = change(tensors[f"{name}.{part}"]).contiguous()
    save_file(tensors, path)
    with pytest.raises(InputError, match="do not fit together"):
        FORM.read(tmp_path / "out").load(f"{name}.weight")


def test_a_layout_that_is_not_known_is_refused_by_the_reader(wide, tmp_path):
    exported(FORM, coded(wide, tmp_path / "v", 0, 4, 32, True), tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    path.write_text(path.read_text().replace('"checkpoint_format": "gptq"', '"checkpoint_format": "marlin"'))
    with pytest.raises(InputError, match="in the layout 'marlin'; readable are 2, 3, 4, 8 bits in gptq and gptq_v2"):
        FORM.read(tmp_path / "out")
