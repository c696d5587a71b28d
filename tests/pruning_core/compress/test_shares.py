"""Shares: what an allocation decides is what becomes of each matrix."""

from pathlib import Path

import pytest
import torch
from small_models import at_first_block
from transformers import AutoConfig, GPT2Config, GPT2LMHeadModel

from pruning_core.calibration.collect import collect
from pruning_core.compress.block import compress_block, compress_block_from, ungrouped
from pruning_core.compress.shares import Matrix, Shares, matrices_of, method_shares, target_of, unit_of
from pruning_core.errors import InputError
from pruning_core.model.decoder import Decoder, matrix
from pruning_core.settings.method import build_method

SWEEP = {"name": "sweep", "block": 8}
SPARSEGPT = {"saliency": {"name": "obs"}, "pattern": {"name": "unstructured"}, "sparsity": 0.5, "compensation": SWEEP}
WANDA = {"saliency": {"name": "wanda"}, "pattern": {"name": "unstructured", "scope": "row"}, "sparsity": 0.5}
TWO_OF_FOUR = {"saliency": {"name": "obs"}, "pattern": {"name": "n_of_m", "n": 2, "m": 4}, "compensation": SWEEP}
MAGNITUDE = {"saliency": {"name": "magnitude"}, "pattern": {"name": "unstructured", "scope": "matrix"}, "sparsity": 0.5}


def uneven(decoder: Decoder, unit: str) -> Shares:
    """Another share for every matrix of block 0, none and all but one among them."""
    values = {}
    for number, one in enumerate(part for part in matrices_of(decoder) if part.block == 0):
        values[one.name] = number % 4 + 1 if unit == "n" else [0, one.size - 1, 17, 91, 100, 101, 250][number]
    return Shares(unit, values)


@pytest.mark.parametrize("spec", [SPARSEGPT, WANDA, TWO_OF_FOUR], ids=["sparsegpt", "wanda", "2of4"])
@pytest.mark.parametrize("propagation", ["compressed", "blockwise", "dense"])
def test_every_matrix_of_a_block_gets_its_own_share_to_the_weight(tiny_directory: Path, spec, propagation):
    decoder, states = at_first_block(tiny_directory)
    method = build_method(spec)
    shares = uneven(decoder, unit_of(method))
    if propagation == "dense":
        done = compress_block_from(decoder, 0, collect(decoder, 0, states, advance=False), method, shares)
    else:
        done = compress_block(decoder, 0, states, method, propagation, shares=shares)
    for layer in done.layers:
        own = shares.values[layer.name]
        size = layer.rows * layer.columns
        assert layer.removed == (own if shares.unit == "zeros" else size * (4 - own) // 4)
        if shares.unit == "n":
            groups = done.keep[layer.name].reshape(-1, 4).sum(dim=1)
            assert groups.unique().tolist() == [own]
    assert len(done.layers) == 7


def test_a_matrix_with_shares_is_compressed_as_it_would_be_alone(tiny_directory: Path):
    decoder, states = at_first_block(tiny_directory)
    known = collect(decoder, 0, states, advance=False)
    shares = uneven(decoder, "zeros")
    dense = {name: matrix(module).clone() for name, module in decoder.linears(0).items()}
    compress_block_from(decoder, 0, known, build_method(SPARSEGPT), shares)
    for group, statistics in known:
        for name in group.names:
            alone = build_method(SPARSEGPT | {"sparsity": shares.values[name] / dense[name].numel()})
            expected = alone.compress(dense[name], alone.prepare(statistics)).weight
            torch.testing.assert_close(matrix(decoder.linears(0)[name]), expected)


def test_a_matrix_that_loses_nothing_keeps_its_weights_and_is_still_quantized(tiny_directory: Path):
    decoder, states = at_first_block(tiny_directory)
    known = collect(decoder, 0, states, advance=False)
    names = list(decoder.linears(0))
    dense = {name: matrix(module).clone() for name, module in decoder.linears(0).items()}
    shares = Shares("n", dict.fromkeys(names, 4))
    compress_block_from(decoder, 0, known, build_method(TWO_OF_FOUR), shares)
    assert all(torch.equal(matrix(decoder.linears(0)[name]), dense[name]) for name in names)
    quantizer = {"name": "affine", "bits": 4, "group_size": 8}
    done = compress_block_from(decoder, 0, known, build_method(TWO_OF_FOUR | {"quantizer": quantizer}), shares)
    assert all(bool(done.keep[name].all()) and f"{name}.codes" in done.quantized for name in names)


@pytest.mark.parametrize("size", [3, 100, 4096 * 11008, 8192 * 28672])
def test_a_share_of_zeros_comes_back_exactly_from_the_sparsity_it_becomes(size: int):
    method = build_method(MAGNITUDE)
    for zeros in {0, 1, size // 3, size // 2, size - 1, size}:
        own = Shares("zeros", {"w": zeros}).applied(method, "w", size)
        assert method_shares(own, [Matrix("w", 0, 1, size)]).values == {"w": zeros}


def test_an_allocation_of_another_model_is_told(tiny_directory: Path):
    decoder, _ = at_first_block(tiny_directory)
    with pytest.raises(InputError, match=r"nothing of model\.layers\.0\.self_attn\.q_proj; it was made for another"):
        compress_block_from(decoder, 0, ungrouped(decoder, 0), build_method(MAGNITUDE), Shares("zeros", {"other": 1}))


def test_matrices_are_named_in_model_order_without_loading_any(tmp_path: Path):
    GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2)).save_pretrained(tmp_path)
    decoder = Decoder(tmp_path, AutoConfig.from_pretrained(tmp_path))
    found = matrices_of(decoder)
    assert found[0] == Matrix("transformer.h.0.attn.c_attn", 0, 48, 16)
    assert [one.name.rpartition(".")[2] for one in found] == ["c_attn", "c_proj", "c_fc", "c_proj"] * 2
    assert sum(one.size for one in found) == 2 * 12 * 16 * 16
    assert all(module.weight.is_meta for module in decoder.linears(1).values())


def test_shares_survive_json_and_add_up():
    matrices = (Matrix("a", 0, 4, 8), Matrix("b", 0, 2, 16))
    zeros, kept = Shares("zeros", {"a": 5, "b": 0}), Shares("n", {"a": 1, "b": 8})
    assert Shares.of_facts(zeros.facts()) == zeros and Shares.of_facts(kept.facts()) == kept
    assert zeros.removed(matrices) == 5 and kept.removed(matrices, 8) == 32 // 8 * 7
    for broken in ({"unit": "percent", "values": {}}, {"unit": "n", "values": {"a": 0.5}}, {"unit": "n"}):
        with pytest.raises(InputError, match="unit"):
            Shares.of_facts(broken)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (WANDA | {"pattern": {"name": "unstructured", "scope": "row", "rounding": "floor"}}, "rounding floor"),
        (MAGNITUDE | {"pattern": {"name": "block", "rows": 4, "columns": 4}}, "pattern block"),
        (TWO_OF_FOUR | {"pattern": {"name": "n_of_m", "n": 2, "m": 4, "ragged": "dense"}}, "ragged dense"),
        ({"quantizer": {"name": "affine", "bits": 4}}, "no pattern"),
    ],
)
def test_patterns_without_an_exact_share_cannot_be_allocated(spec, sentence: str):
    with pytest.raises(InputError, match=f"an allocation needs .*; it has .*{sentence}"):
        unit_of(build_method(spec))


def test_a_target_is_what_the_method_removes():
    assert target_of(build_method(SPARSEGPT)) == 0.5
    assert target_of(build_method(TWO_OF_FOUR | {"pattern": {"name": "n_of_m", "n": 1, "m": 8}})) == 0.875
