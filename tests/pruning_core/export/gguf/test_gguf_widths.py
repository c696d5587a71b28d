"""GGUF files of models whose blocks differ in width."""

import struct
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from gguf_models import mixed, saved
from quantized_variants import exported, variant
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import InputError
from pruning_core.export import FORMATS
from pruning_core.export.gguf.header import read_gguf_header
from pruning_core.source import load_model

WIDTHS = {"feed_forward_length": [95, 94, 93], "head_count": [6, 4, 2], "head_count_kv": [3, 2, 1]}
SCALARS = {"embedding_length": 64, "block_count": 3, "key_length": 8, "value_length": 8, "dimension_count": 8}


def form(kind: str):
    return FORMATS.build({"name": "gguf", "type": kind})


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config])
def test_blocks_of_different_widths_come_back_bit_for_bit_and_are_told_one_by_one(tmp_path, kind):
    model = StoredModel(mixed(kind, tmp_path))
    exported(form("f32"), model, tmp_path / "out")
    weights = form("f32").read(tmp_path / "out")
    assert weights.names() == model.names()
    assert all(torch.equal(weights.load(name), model.load(name)) for name in model.names())
    fields = GGUFReader(tmp_path / "out" / "model.gguf").fields
    assert fields["general.architecture"].contents() == "deci"
    told = {key.rpartition(".")[2]: field.contents() for key, field in fields.items() if key.startswith("deci.")}
    assert (WIDTHS | SCALARS).items() <= told.items()
    keys = read_gguf_header(tmp_path / "out" / "model.gguf").keys
    assert all(keys[key] == field.contents() for key, field in fields.items() if key.startswith("deci."))
    assert keys["tokenizer.ggml.tokens"] is None


def test_an_export_of_blocks_of_different_widths_loads_as_the_model_that_it_is(tmp_path):
    directory = mixed(LlamaConfig, tmp_path)
    exported(form("f32"), StoredModel(directory), tmp_path / "out")
    tokens = torch.arange(1, 33)[None]
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "out")(tokens).logits, load_model(directory)(tokens).logits)


@pytest.mark.parametrize(("families", "narrow"), [(("mlp",), ["feed_forward_length"]), (("query",), ["head_count"])])
def test_what_was_not_removed_has_the_width_of_the_config_in_every_block(tmp_path, families, narrow):
    exported(form("f16"), StoredModel(mixed(LlamaConfig, tmp_path, families)), tmp_path / "out")
    keys = read_gguf_header(tmp_path / "out" / "model.gguf").keys
    found = {key.rpartition(".")[2]: value for key, value in keys.items() if isinstance(value, list)}
    same = {"feed_forward_length": [96] * 3, "head_count": [8] * 3, "head_count_kv": [4] * 3}
    own = {"feed_forward_length": [95, 94, 93], "head_count": [8, 4, 8]}
    assert {key: found[key] for key in same} == same | {key: own[key] for key in narrow}


def test_codes_and_zeros_of_narrow_blocks_are_as_those_of_wide_ones(tmp_path):
    model = variant(mixed(LlamaConfig, tmp_path, hidden_size=128), tmp_path / "v", bits=4, group_size=32)
    facts = exported(form("q5_0"), model, tmp_path / "out")
    weights = form("q5_0").read(tmp_path / "out")
    for name, matrix in model.whole.items():
        assert not weights.load(name)[~model.keep(matrix)].any()
    # Inputs of o_proj are 96, 64 and 32; those of down_proj are no multiples of a block.
    assert facts["matrices_with_own_codes"] == 3 * 6 and facts["types"]["q5_0"] == 3 * 6
    removed = sum(matrix.removed for matrix in model.matrices)
    assert facts["zeros"]["kept"] == facts["zeros"]["before"] >= removed > 0


def test_norms_of_queries_and_keys_in_blocks_of_different_widths_are_refused_with_a_way_out(tmp_path):
    model = StoredModel(mixed(Qwen3Config, tmp_path, head_dim=8))
    sentence = "the blocks differ in width, and of qwen3 llama.cpp has none that do .mode uniform.* use --format safe"
    with pytest.raises(InputError, match=sentence):
        form("f16").check(model)


def altered(path: Path, key: str, place: int, value: int) -> None:
    """Put a number at a place behind the name of a key, which its length precedes."""
    content = bytearray(path.read_bytes())
    start = content.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key) + place
    content[start : start + 4] = struct.pack("<i", value)
    path.write_bytes(content)


# Behind a key stand the number of its type, and of an array that of its entries, their count in 8 bytes, the entries.
@pytest.mark.parametrize(
    ("key", "place", "value"),
    [
        ("deci.attention.head_count", 16, 0),
        ("deci.attention.head_count_kv", 20, -1),
        ("deci.block_count", 4, 2),
        ("deci.block_count", 4, -1),
        ("deci.attention.head_count_kv", 4, 6),
    ],
)
def test_heads_that_are_not_told_for_every_block_are_refused(tmp_path, key, place, value):
    exported(form("f16"), StoredModel(mixed(LlamaConfig, tmp_path)), tmp_path / "out")
    altered(tmp_path / "out" / "model.gguf", key, place, value)
    with pytest.raises(InputError, match=r"model\.gguf does not tell how many heads its blocks have"):
        form("f16").read(tmp_path / "out")


def test_a_number_of_heads_that_rows_cannot_have_is_refused(tmp_path):
    exported(form("f16"), StoredModel(mixed(LlamaConfig, tmp_path)), tmp_path / "out")
    altered(tmp_path / "out" / "model.gguf", "deci.attention.head_count", 16, 7)
    weights = form("f16").read(tmp_path / "out")
    with pytest.raises(InputError, match=r"model\.layers\.0\.self_attn\.q_proj\.weight cannot be read"):
        weights.load("model.layers.0.self_attn.q_proj.weight")


def test_a_claim_of_two_thousand_million_blocks_is_refused_at_once(tmp_path):
    exported(form("f16"), StoredModel(saved(LlamaConfig, tmp_path / "in")), tmp_path / "out")
    altered(tmp_path / "out" / "model.gguf", "llama.block_count", 4, 2**31 - 1)
    with pytest.raises(InputError, match="does not tell how many heads"):
        form("f16").read(tmp_path / "out")
