"""Matrices stacked into one sweep against the same matrices one by one."""

import pytest
import torch
from problems import layer

from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.compress.stack import LARGEST, stacks
from pruning_core.settings.method import build_method

SWEEP = {"name": "sweep", "block": 16}
AFFINE = {"name": "affine", "bits": 4}
METHODS = {
    "sparsegpt": {
        "saliency": {"name": "obs"},
        "pattern": {"name": "unstructured"},
        "sparsity": 0.53,
        "compensation": SWEEP,
    },
    "rows": {
        "saliency": {"name": "obs"},
        "pattern": {"name": "unstructured", "scope": "row"},
        "sparsity": 0.53,
        "compensation": SWEEP,
    },
    "2of4": {"saliency": {"name": "obs"}, "pattern": {"name": "n_of_m", "n": 2, "m": 4}, "compensation": SWEEP},
    "tiles": {
        "saliency": {"name": "wanda"},
        "pattern": {"name": "block", "rows": 4, "columns": 4},
        "sparsity": 0.5,
        "compensation": SWEEP,
    },
    "gptq": {
        "quantizer": {**AFFINE, "order": "activation", "group_size": 16, "static_groups": True},
        "compensation": SWEEP,
    },
    "joint": {
        "saliency": {"name": "obs"},
        "pattern": {"name": "unstructured"},
        "sparsity": 0.5,
        "compensation": SWEEP,
        "quantizer": {**AFFINE, "search": "mse"},
    },
    "wanda": {"saliency": {"name": "wanda"}, "pattern": {"name": "unstructured", "scope": "row"}, "sparsity": 0.53},
    "magnitude": {
        "saliency": {"name": "magnitude"},
        "pattern": {"name": "unstructured", "scope": "matrix"},
        "sparsity": 0.53,
        "quantizer": AFFINE,
    },
}


@pytest.mark.parametrize("name", METHODS)
def test_a_stack_comes_out_as_its_matrices_one_by_one(name):
    method = build_method(METHODS[name])
    _, inputs = layer(rows=8, columns=48, seed=1)
    draw = torch.Generator().manual_seed(3)
    # Of different scale: were they one matrix, all zeros would be in the small one.
    weights = [torch.randn(rows, 48, generator=draw) * scale for rows, scale in ((12, 1.0), (5, 0.01), (24, 10.0))]
    prepared = method.prepare(LayerStatistics.from_inputs(inputs))
    together = method.compress_stacked(weights, prepared)
    for weight, done in zip(weights, together, strict=True):
        alone = method.compress(weight, prepared)
        assert torch.equal(done.keep, alone.keep)
        torch.testing.assert_close(done.weight, alone.weight, rtol=1e-4, atol=1e-6)
        assert (done.loss is None) == (alone.loss is None)
        if alone.loss is not None:
            assert done.loss == pytest.approx(alone.loss, rel=1e-4)
        if alone.codes is not None:
            assert torch.equal(done.codes, alone.codes) and torch.equal(done.group, alone.group)
            assert torch.equal(done.scale, alone.scale) and torch.equal(done.zero, alone.zero)


def test_large_matrices_are_not_stacked_and_none_is_lost():
    sizes = {"q": LARGEST // 2, "k": LARGEST // 4, "v": LARGEST // 4, "gate": LARGEST * 2, "up": 10, "down": LARGEST}
    assert list(stacks(sizes)) == [["q", "k", "v"], ["gate"], ["up"], ["down"]]
    assert list(stacks({})) == []
