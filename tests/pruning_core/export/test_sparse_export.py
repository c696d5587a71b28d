"""The format `sparse` on models that were pruned and quantized."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from pruning_core.checkpoint.bit_masks import pack_mask
from pruning_core.checkpoint.layer_facts import LayerFacts
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import InputError
from pruning_core.export import FORMATS
from pruning_core.progress import ignore_progress
from pruning_core.settings.method import compress_layer

HALF = {"saliency": {"name": "magnitude"}, "pattern": {"name": "unstructured", "scope": "matrix"}, "sparsity": 0.5}
MOST = HALF | {"sparsity": 0.97}
EIGHT = {"saliency": {"name": "magnitude"}, "pattern": {"name": "n_of_m", "n": 1, "m": 8}}
FOUR_BITS = {"quantizer": {"name": "affine", "bits": 4, "group_size": 32}}
METHODS = {"half": HALF, "most": MOST, "1of8": EIGHT, "half-4bit": HALF | FOUR_BITS, "4bit": FOUR_BITS}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def variant(tiny_llama, tmp_path: Path):
    """Writes a bfloat16 variant of a random Llama, with masks and codes beside it as variants have them."""

    def build(method: str, **settings) -> StoredModel:
        directory = tmp_path / method
        model = tiny_llama(hidden_size=128, intermediate_size=192, head_dim=32, **settings).bfloat16()
        layers, masks, codes = [], {}, {}
        for name, module in model.model.layers.named_modules(prefix="model.layers"):
            if not isinstance(module, torch.nn.Linear):
                continue
            done = compress_layer(module.weight, **METHODS[method])
            module.weight.data = done.weight.bfloat16()
            masks[name] = pack_mask(done.keep)
            rows, columns = done.weight.shape
            layer = {"name": name, "stored": f"{name}.weight", "rows": rows, "columns": columns}
            layers.append(layer | {"removed": int((~done.keep).sum())})
            if done.codes is not None:
                layers[-1] |= {"bits": 4, "groups": done.scale.shape[1]}
                parts = {"codes": done.codes, "scale": done.scale, "zero": done.zero}
                parts["group"] = done.group.to(torch.int32)
                codes |= {f"{name}.{part}": value.contiguous() for part, value in parts.items()}
        model.save_pretrained(directory)
        save_file(masks, directory / "masks.safetensors")
        if codes:
            save_file(codes, directory / "quantized.safetensors")
        return StoredModel(directory, [LayerFacts(**layer) for layer in layers])

    return build


def export(model: StoredModel, out: Path, **options):
    """Check and write as a workflow does; the format and its facts."""
    sparse = FORMATS.build({"name": "sparse", **options})
    sparse.check(model)
    out.mkdir()
    shutil.copyfile(model.directory / "config.json", out / "config.json")
    return sparse, sparse.write(model, out, ignore_progress)


def compressed_entries(model: StoredModel, container) -> set[str]:
    return {container.entry(matrix.stored).encoding for matrix in model.matrices}


@pytest.mark.parametrize(
    ("method", "encoding"),
    [("half", "bitmask"), ("most", "csr"), ("1of8", "n_of_m"), ("half-4bit", "codes"), ("4bit", "codes")],
)
def test_auto_finds_the_encoding_that_suits_the_method_and_keeps_every_bit(variant, tmp_path, method, encoding):
    model = variant(method)
    sparse, facts = export(model, tmp_path / "out")
    assert sparse.exact and sparse.recognises(tmp_path / "out") and not sparse.recognises(model.directory)
    container = sparse.read(tmp_path / "out")
    assert container.names() == model.names()
    assert all(raw(container.load(name)) == raw(model.load(name)) for name in model.names())
    assert compressed_entries(model, container) == {encoding}
    assert facts["encodings"][encoding]["tensors"] == len(model.matrices)
    assert facts["fallbacks"] == []
    files = [file for file in (tmp_path / "out").iterdir() if file.name != "config.json"]
    assert facts["file_bytes"] == sum(file.stat().st_size for file in files)


def test_the_weights_give_transformers_the_same_model_again(variant, tmp_path):
    model = variant("half")
    sparse, _ = export(model, tmp_path / "out")
    container = sparse.read(tmp_path / "out")
    weights = {name: container.load(name) for name in container.names()}
    dense = AutoModelForCausalLM.from_pretrained(model.directory)
    again = AutoModelForCausalLM.from_pretrained(model.directory)
    for parameter in again.parameters():
        parameter.data.zero_()
    again.load_state_dict(weights)
    tokens = torch.arange(20)[None]
    assert again(tokens).logits.equal(dense(tokens).logits)


def test_stock_loaders_do_not_take_the_shards_for_a_model(variant, tmp_path):
    export(variant("half"), tmp_path / "out")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not FORMATS.build({"name": "safetensors"}).recognises(tmp_path / "out")


@pytest.mark.parametrize(
    ("method", "encoding"),
    [("half", "dense"), ("half", "csr"), ("1of8", "bitmask"), ("1of8", "n_of_m"), ("4bit", "codes")],
)
def test_a_named_encoding_is_that_of_the_compressed_matrices_alone(variant, tmp_path, method, encoding):
    model = variant(method)
    sparse, _ = export(model, tmp_path / "out", encoding=encoding)
    container = sparse.read(tmp_path / "out")
    assert compressed_entries(model, container) == {encoding}
    assert container.entry("model.embed_tokens.weight").encoding == "dense"
    assert all(raw(container.load(name)) == raw(model.load(name)) for name in model.names())


def test_of_a_model_without_facts_a_named_encoding_is_that_of_the_matrices_with_zeros(variant, tmp_path):
    model = variant("half")
    sparse, _ = export(StoredModel(model.directory), tmp_path / "out", encoding="bitmask")
    container = sparse.read(tmp_path / "out")
    assert compressed_entries(model, container) == {"bitmask"}
    assert container.entry("lm_head.weight").encoding == "dense"


def test_the_recipes_n_and_m_are_taken_where_they_are_given(variant, tmp_path):
    model = variant("1of8")
    sparse, _ = export(model, tmp_path / "out", encoding="n_of_m", n=2, m=8)
    container = sparse.read(tmp_path / "out")
    stored = [container.entry(matrix.stored) for matrix in model.matrices]
    assert {(entry.n, entry.m) for entry in stored} == {(2, 8)}
    assert all(raw(container.load(name)) == raw(model.load(name)) for name in model.names())


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("half", {"encoding": "n_of_m", "n": 2, "m": 4}, "down_proj.weight cannot be written as n_of_m"),
        ("half", {"encoding": "codes"}, "it has no codes that give its weights bit for bit; choose encoding auto"),
        ("4bit", {"encoding": "n_of_m"}, "cannot be written as n_of_m"),
    ],
)
def test_what_an_encoding_cannot_hold_is_said_before_anything_is_written(variant, method, options, said):
    with pytest.raises(InputError, match=said):
        FORMATS.build({"name": "sparse", **options}).check(variant(method))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 2}, "n and m go together"),
        ({"n": 4, "m": 4}, "n must be below m, got 4:4"),
        ({"n": 2, "m": 4, "encoding": "csr"}, "encoding csr has no n and m"),
        ({"encoding": "gzip"}, "'auto', 'dense', 'bitmask', 'n_of_m', 'csr' or 'codes'"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        FORMATS.build({"name": "sparse", **options})


def test_codes_that_do_not_give_the_weights_leave_a_fact_and_the_exact_weights(variant, tmp_path):
    model = variant("half-4bit")
    path = model.directory / "quantized.safetensors"
    codes = load_file(path)
    codes["model.layers.0.mlp.up_proj.scale"] *= 1.01
    save_file(codes, path)
    model = StoredModel(model.directory, model.matrices)
    sparse, facts = export(model, tmp_path / "out")
    (fallback,) = facts["fallbacks"]
    assert fallback["tensor"] == "model.layers.0.mlp.up_proj.weight"
    assert (fallback["event"], fallback["instead"]) == ("no_codes", "bitmask")
    container = sparse.read(tmp_path / "out")
    assert all(raw(container.load(name)) == raw(model.load(name)) for name in model.names())


def test_matrices_that_the_checkpoint_transposes_are_exact_too(tmp_path):
    directory = tmp_path / "gpt2"
    config = GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2, n_positions=16)
    network = GPT2LMHeadModel(config)
    weight = network.transformer.h[0].mlp.c_fc.weight
    weight.data[weight.abs() < weight.abs().median()] = 0.0
    network.save_pretrained(directory)
    rows, columns = weight.T.shape
    layer = {"name": "transformer.h.0.mlp.c_fc", "rows": rows, "columns": columns, "removed": rows * columns // 2}
    layer |= {"stored": "transformer.h.0.mlp.c_fc.weight", "bits": 4, "groups": 1}
    model = StoredModel(directory, [LayerFacts(**layer)])
    sparse, facts = export(model, tmp_path / "out")
    container = sparse.read(tmp_path / "out")
    assert container.entry(layer["name"] + ".weight").encoding == "bitmask"
    assert facts["fallbacks"][0]["why"] == "the checkpoint does not store it as [rows, columns]"
    assert all(raw(container.load(name)) == raw(model.load(name)) for name in model.names())


def test_the_facts_are_json_and_tell_bits_per_weight(variant, tmp_path):
    model = variant("half")
    _, facts = export(model, tmp_path / "out")
    assert json.loads(json.dumps(facts)) == facts
    parameters = sum(model.load(name).numel() for name in model.names())
    assert facts["parameters"] == parameters
    assert facts["bits_per_weight"] == pytest.approx(8 * facts["file_bytes"] / parameters)
    assert facts["dense_bytes"] == 2 * parameters
