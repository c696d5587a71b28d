"""GGUF files, read with the gguf library's own reader and with ours."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, quants
from gguf_models import TEXT, piece_tokenizer, saved
from quantized_variants import coded, exported, variant
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import InputError
from pruning_core.export import FORMATS
from pruning_core.export.gguf.architecture import checkpoint_name, row_order


def form(kind: str):
    return FORMATS.build({"name": "gguf", "type": kind})


def by_library(directory: Path) -> dict[str, tuple[str, torch.Tensor]]:
    """Name -> (type, float32 weight), by the library's own reader."""
    return {
        tensor.name: (
            tensor.tensor_type.name.lower(),
            torch.from_numpy(quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)),
        )
        for tensor in GGUFReader(directory / "model.gguf").tensors
    }


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
def test_every_weight_of_a_model_comes_back_bit_for_bit_from_a_float32_file(tmp_path, kind):
    model = StoredModel(saved(kind, tmp_path / "in", tie_word_embeddings=False))
    facts = exported(form("f32"), model, tmp_path / "out")
    weights = form("f32").read(tmp_path / "out")
    assert weights.names() == model.names()
    assert all(torch.equal(weights.load(name), model.load(name)) for name in model.names())
    assert facts["types"] == {"f32": len(model.names())}
    assert form("f32").recognises(tmp_path / "out") and not form("f32").recognises(tmp_path / "in")


@pytest.mark.parametrize(
    ("kind", "quantizer"),
    [
        ("q4_0", {"bits": 4, "symmetric": True, "group_size": 32}),
        ("q4_0", {"bits": 3, "group_size": 32}),
        ("q5_0", {"bits": 4, "group_size": 32}),
        ("q5_0", {"bits": 4}),
        ("q8_0", {"bits": 4, "group_size": 32, "order": "activation", "static_groups": True}),
        ("q8_0", {"bits": 8, "symmetric": True}),
    ],
)
def test_a_type_that_can_hold_the_codes_of_a_variant_holds_them_as_they_are(tmp_path, kind, quantizer):
    model = variant(saved(LlamaConfig, tmp_path / "in"), tmp_path / "v", **quantizer)
    facts = exported(form(kind), model, tmp_path / "out")
    weights = form(kind).read(tmp_path / "out")
    zeros = 0
    for name, matrix in model.whole.items():
        grid, found = model.grid(matrix), weights.load(name)
        group = grid.group.long()
        assert torch.equal(found, grid.scale.half().float()[:, group] * (grid.codes.float() - grid.zero[:, group]))
        assert not found[~model.keep(matrix)].any()
        zeros += int((found == 0).sum())
    assert facts["matrices_with_own_codes"] == len(model.whole) == facts["types"][kind]
    assert facts["zeros"] == {"before": zeros, "kept": zeros, "after": zeros}
    for name, (_, weight) in by_library(tmp_path / "out").items():
        ours = weights.load(checkpoint_name(name))
        assert torch.equal(weight.sort(dim=0).values, ours.sort(dim=0).values)


@pytest.mark.parametrize(
    ("kind", "quantizer"),
    [
        ("q4_0", {"bits": 4, "group_size": 32}),
        ("q8_0", {"bits": 4, "group_size": 16}),
        ("q8_0", {"bits": 4, "group_size": 32, "order": "activation"}),
        ("f16", {"bits": 4, "group_size": 32}),
    ],
)
def test_codes_that_do_not_fit_are_rounded_from_the_float32_weight_by_the_library(tmp_path, kind, quantizer):
    model = variant(saved(LlamaConfig, tmp_path / "in"), tmp_path / "v", **quantizer)
    facts = exported(form(kind), model, tmp_path / "out")
    assert facts["matrices_with_own_codes"] == 0
    number = GGMLQuantizationType[kind.upper()]
    for name, matrix in model.whole.items():
        rounded = quants.dequantize(quants.quantize(model.grid(matrix).weight.numpy(), number), number)
        assert np.array_equal(form(kind).read(tmp_path / "out").load(name).numpy(), rounded.astype(np.float32))


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q5_0", "q4_0"])
def test_zeros_of_a_pruned_variant_stay_zeros_in_types_that_are_symmetric(tmp_path, kind):
    model = variant(saved(LlamaConfig, tmp_path / "in"), tmp_path / "v")
    facts = exported(form(kind), model, tmp_path / "out")
    removed = sum(matrix.removed for matrix in model.matrices)
    assert facts["zeros"]["before"] == facts["zeros"]["kept"] == removed > 0
    weights = form(kind).read(tmp_path / "out")
    assert all(not weights.load(name)[~model.keep(matrix)].any() for name, matrix in model.whole.items())


def test_types_with_a_minimum_lose_zeros_and_say_so(tmp_path):
    model = variant(saved(LlamaConfig, tmp_path / "in"), tmp_path / "v")
    facts = exported(form("q4_1"), model, tmp_path / "out")
    weights = form("q4_1").read(tmp_path / "out")
    kept = sum(int((weights.load(name)[~model.keep(matrix)] == 0).sum()) for name, matrix in model.whole.items())
    assert facts["zeros"]["kept"] == kept < facts["zeros"]["before"]


def test_a_matrix_whose_inputs_are_no_multiple_of_a_block_stays_float16(tmp_path):
    model = StoredModel(saved(LlamaConfig, tmp_path / "in", intermediate_size=72))
    exported(form("q8_0"), model, tmp_path / "out")
    kinds = {name: kind for name, (kind, _) in by_library(tmp_path / "out").items()}
    assert kinds["blk.0.ffn_down.weight"] == "f16" and kinds["token_embd.weight"] == "f16"
    assert kinds["blk.0.ffn_up.weight"] == "q8_0" and kinds["blk.0.attn_norm.weight"] == "f32"


def test_turning_neighbours_in_the_new_order_of_rows_is_turning_halves_in_the_old_one():
    heads, width, draw = 3, 8, torch.Generator().manual_seed(0)
    states = torch.randn(1, heads, 1, width, generator=draw)
    angles = torch.rand(width // 2, generator=draw)
    doubled = torch.cat([angles, angles])[None, None]
    turned, _ = apply_rotary_pos_emb(states, states, doubled.cos(), doubled.sin())
    order = row_order("llama", "blk.0.attn_q.weight", heads * width, heads, heads)
    pairs = torch.view_as_complex(states.flatten()[order].reshape(heads, -1, 2).contiguous())
    neighbours = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten()
    torch.testing.assert_close(neighbours, turned.flatten()[order])


def test_the_file_tells_the_tokens_and_merges_of_the_tokenizer(tmp_path):
    model = StoredModel(saved(LlamaConfig, tmp_path / "in"))
    exported(form("f16"), model, tmp_path / "out")
    fields = GGUFReader(tmp_path / "out" / "model.gguf").fields
    settings = json.loads((tmp_path / "in" / "tokenizer.json").read_text())
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert all(tokens[index] == token for token, index in settings["model"]["vocab"].items())
    assert len(tokens) == model.config["vocab_size"] and tokens[-1] == f"[PAD{len(tokens) - 1}]"
    assert fields["tokenizer.ggml.merges"].contents() == [" ".join(pair) for pair in settings["model"]["merges"]]
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False


def test_joining_the_best_scored_pair_first_gives_the_tokens_of_the_tokenizer(tmp_path):
    model = StoredModel(saved(LlamaConfig, tmp_path / "in", pieces=True))
    exported(form("f16"), model, tmp_path / "out")
    fields = GGUFReader(tmp_path / "out" / "model.gguf").fields
    assert fields["tokenizer.ggml.model"].contents() == "llama"
    assert fields["tokenizer.ggml.add_space_prefix"].contents() is True
    tokens, scores = (fields[f"tokenizer.ggml.{kind}"].contents() for kind in ("tokens", "scores"))
    index = {token: number for number, token in enumerate(tokens)}
    for text in (*TEXT, "quick dogs jump", "théy"):
        parts = list("\u2581" + text.replace(" ", "\u2581"))
        while pairs := [i for i in range(len(parts) - 1) if parts[i] + parts[i + 1] in index]:
            best = max(pairs, key=lambda i: (scores[index[parts[i] + parts[i + 1]]], -i))
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        known = [[index[p]] if p in index else [index[f"<0x{b:02X}>"] for b in p.encode()] for p in parts]
        assert [number for numbers in known for number in numbers] == piece_tokenizer().encode(text).ids


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"hidden_act": "gelu"}, "the activation is 'gelu', not silu"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "of type 'linear', not default",
        ),
        ({"vocab_size": 290}, "it has the token 299, and the model 290 embeddings"),
    ],
)
def test_a_model_that_llama_cpp_does_not_compute_is_refused(tmp_path, settings, sentence):
    with pytest.raises(InputError, match=f"--format gguf cannot express .*{sentence}.*; use --format safetensors"):
        form("f16").check(StoredModel(saved(LlamaConfig, tmp_path / "in", **settings)))


def test_other_architectures_are_refused_with_those_that_are_known(tmp_path):
    directory = saved(GPT2Config, tmp_path / "in", n_embd=64, n_head=4, n_layer=1)
    with pytest.raises(InputError, match="model_type 'gpt2' is none of llama, mistral, qwen2, qwen3"):
        form("f16").check(StoredModel(directory))


def test_a_tokenizer_of_another_kind_is_refused(tiny_directory):
    with pytest.raises(InputError, match="of the kind WordLevel, not BPE"):
        form("f16").check(StoredModel(tiny_directory))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}, "without a space before the text"),
        ({"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}, "none of gpt-2, llama-bpe, qwen2"),
        ({"type": "Whitespace"}, "no byte-level BPE"),
    ],
)
def test_a_text_that_is_cut_in_another_way_is_refused(tmp_path, change, sentence):
    path = saved(LlamaConfig, tmp_path / "in") / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pre_tokenizer": change}))
    with pytest.raises(InputError, match=sentence):
        form("f16").check(StoredModel(path.parent))


def test_a_type_that_cannot_be_written_is_refused_with_those_that_can():
    with pytest.raises(InputError, match="'f32', 'f16', 'bf16', 'q8_0', 'q5_0', 'q4_0', 'q5_1' or 'q4_1', got 'q4_k'"):
        form("q4_k")


def test_weights_beyond_float16_are_refused_and_nothing_is_left(tmp_path):
    model = coded(saved(LlamaConfig, tmp_path / "in"), tmp_path / "v", 0, 4, 32, True)
    model.grid = lambda matrix: None
    load = model.load
    model.load = lambda name: load(name) * (1e7 if name.endswith("up_proj.weight") else 1)
    with pytest.raises(InputError, match=r"f16 cannot hold the weights of model\.layers\.0\.mlp\.up_proj\.weight"):
        exported(form("f16"), model, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*gguf*")) and not list((tmp_path / "out").glob(".*"))


@pytest.fixture(scope="module")
def small_file(tmp_path_factory) -> bytes:
    """A whole GGUF file."""
    root = tmp_path_factory.mktemp("gguf")
    model = StoredModel(saved(LlamaConfig, root / "in", num_hidden_layers=1))
    exported(form("q8_0"), model, root / "out")
    return (root / "out" / "model.gguf").read_bytes()


def test_a_file_that_is_cut_anywhere_is_refused(small_file, tmp_path):
    path = tmp_path / "model.gguf"
    for length in (0, 3, 9, 20, 200, len(small_file) // 40, len(small_file) // 2, len(small_file) - 1):
        path.write_bytes(small_file[:length])
        with pytest.raises(InputError, match=str(path)):
            form("q8_0").read(tmp_path)


@pytest.mark.parametrize("place", [8, 16, 24])
def test_a_head_that_claims_more_than_the_file_has_is_refused_at_once(small_file, tmp_path, place):
    (tmp_path / "model.gguf").write_bytes(small_file[:place] + b"\xff" * 7 + b"\x0f" + small_file[place + 8 :])
    with pytest.raises(InputError, match="damaged"):
        form("q8_0").read(tmp_path)


def test_a_tensor_that_is_not_there_and_a_second_file_are_refused(small_file, tmp_path):
    (tmp_path / "model.gguf").write_bytes(small_file)
    with pytest.raises(InputError, match=r"holds no tensor 'model\.nothing'"):
        form("q8_0").read(tmp_path).load("model.nothing")
    (tmp_path / "other.gguf").write_bytes(small_file)
    with pytest.raises(InputError, match="holds 2 GGUF files"):
        form("q8_0").read(tmp_path)
