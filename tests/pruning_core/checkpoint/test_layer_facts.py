"""What manifests tell of a matrix, byte for byte, and honest sizes, against the arithmetic of the literature."""

import json

import pytest

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.checkpoint.layer_facts import LayerFacts, counted
from pruning_core.errors import InputError

SHAPE = {"rows": 64, "columns": 128}


@pytest.mark.parametrize(
    ("removed", "bits", "groups", "expected"),
    [
        # Half of the 16-bit values and a mask: 9 bits a weight.
        (0.5, None, None, 9.0),
        (0.75, None, None, 5.0),
        (0.0, None, None, 16.0),
        # Half of the 4-bit values, a mask, and a scale and zero point for each row of 128.
        (0.5, 4, 1, 3.0 + 20 / 128),
        (0.0, 4, 2, 4.0 + 2 * 20 / 128),
    ],
)
def test_bits_per_weight_count_masks_scales_and_zero_points(removed, bits, groups, expected):
    size = SHAPE["rows"] * SHAPE["columns"]
    layer = LayerFacts("layer", "layer.weight", **SHAPE, removed=int(removed * size), bits=bits, groups=groups)
    assert layer.packed_bits(16) / size == pytest.approx(expected)


MASKED = {
    "name": "model.layers.3.mlp.up_proj",
    "stored": "model.layers.3.mlp.up_proj.weight",
    "rows": 64,
    "columns": 128,
    "removed": 4096,
    "zeros": 4100,
    "loss": 0.25,
    "bits": 4,
    "groups": 2,
    "tokens": None,
}
CUT = {
    "name": "model.layers.0.self_attn.q_proj",
    "stored": "model.layers.0.self_attn.q_proj.weight",
    "rows": 48,
    "columns": 64,
    "dense_rows": 64,
    "dense_columns": 64,
    "removed": 1024,
    "zeros": 0,
    "loss": None,
    "bits": None,
    "groups": None,
    "tokens": None,
}


@pytest.mark.parametrize("entry", [MASKED, CUT])
def test_a_layer_goes_to_the_bytes_that_manifests_hold_and_comes_back(entry: dict):
    layer = LayerFacts.of(json.loads(json.dumps(entry)))
    assert json.dumps(layer.facts(), sort_keys=True) == json.dumps(entry, sort_keys=True)
    assert LayerFacts.of(layer.facts()) == layer
    assert LayerFacts.of(entry | {"a fact of a newer version": 1}) == layer


def test_what_is_gone_is_counted_with_the_rows_that_were_cut_off():
    assert (LayerFacts.of(MASKED).gone, LayerFacts.of(MASKED).size) == (4100, 64 * 128)
    assert (LayerFacts.of(CUT).gone, LayerFacts.of(CUT).sparsity) == (16 * 64, 0.25)
    assert LayerFacts.of(MASKED).place == (3, "mlp.up_proj")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({**MASKED, "rows": "64"}, "rows of the layer 'model.layers.3.mlp.up_proj' is '64'"),
        ({**MASKED, "loss": "small"}, "loss of the layer .* is 'small'"),
        ({"name": "a", "rows": 1, "columns": 1, "removed": 0}, "stored of the layer 'a' is missing"),
    ],
)
def test_a_fact_of_the_wrong_type_or_none_is_an_error_that_names_it(entry: dict, said: str):
    with pytest.raises(InputError, match=said):
        LayerFacts.of(entry)


def test_the_sizes_of_a_model_are_those_of_its_layers_and_of_all_else(half_empty_directory):
    checkpoint = Checkpoint(half_empty_directory)
    name = "model.layers.0.mlp.up_proj"
    rows, columns = checkpoint.shape(f"{name}.weight")
    size, half = rows * columns, rows * columns // 2
    entry = {"name": name, "stored": f"{name}.weight", "rows": rows, "columns": columns, "removed": half}
    entry |= {"zeros": half, "loss": None, "bits": None, "groups": None, "tokens": None}
    stored = sum(checkpoint.load(one).nbytes for one in checkpoint.names())
    every = sum(checkpoint.load(one).numel() for one in checkpoint.names())
    width = 8 * stored / every
    packed = 8 * stored - size * width + half * width + size
    assert counted([LayerFacts.of(entry)], checkpoint, half) == {
        "sparsity": {"prunable": half / size, "whole_model": half / every},
        "parameters": {"prunable": size, "all": every, "removed": half},
        "layers": [entry],
        "bits_per_weight": {"stored": width, "bitmask": packed / every},
        "size_bytes": {"stored": stored, "bitmask": packed / 8},
    }
