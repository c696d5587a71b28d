"""Quantization: grids against a literal search, zeros through every path, act-order against permuting by hand."""

import itertools

import pytest
import torch
from problems import damped, layer, quadratic

from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.errors import InputError
from pruning_core.quantizers import QUANTIZERS
from pruning_core.settings.method import compress_layer

SWEEP, NONE = {"name": "sweep", "block": 16}, {"name": "none"}
GRIDS = [
    {"bits": 4},
    {"bits": 3, "symmetric": True},
    {"bits": 2, "group_size": 8},
    {"bits": 4, "group_size": 16, "symmetric": True},
    {"bits": 4, "group_size": 7},
    {"bits": 4, "order": "activation"},
    {"bits": 4, "order": "activation", "group_size": 8},
    {"bits": 8, "order": "activation", "group_size": 8, "static_groups": True},
    {"bits": 3, "search": "mse"},
]
MASKS = [
    {},
    {"saliency": {"name": "obs"}, "pattern": {"name": "unstructured"}, "sparsity": 0.5},
    {"saliency": {"name": "wanda"}, "pattern": {"name": "unstructured", "scope": "row"}, "sparsity": 0.5},
    {"saliency": {"name": "isc"}, "pattern": {"name": "n_of_m", "n": 2, "m": 4}},
    {"saliency": {"name": "magnitude"}, "pattern": {"name": "block", "rows": 4, "columns": 4}, "sparsity": 0.5},
]
EVERY = list(itertools.product(GRIDS, MASKS, [SWEEP, NONE]))


def quantized(grid: dict, mask: dict, compensation: dict, seed: int = 0, kernel: str = "auto"):
    weight, inputs = layer(seed=seed)
    quantizer = {"name": "affine", **grid}
    known = LayerStatistics.from_inputs(inputs)
    return (
        weight,
        inputs,
        compress_layer(weight, known, quantizer=quantizer, compensation=compensation, kernel=kernel, **mask),
    )


@pytest.mark.parametrize(("grid", "mask", "compensation"), EVERY)
def test_weights_are_what_their_codes_say_and_removed_ones_are_exactly_zero(grid, mask, compensation):
    _, _, done = quantized(grid, mask, compensation)
    step, zero = done.scale[:, done.group], done.zero[:, done.group]
    assert torch.equal(done.weight, step * (done.codes.float() - zero))
    assert int(done.codes.max()) < 2 ** grid["bits"]
    assert not done.weight[~done.keep].any()
    assert done.keep.all() == (not mask)
    assert torch.equal(zero, zero.round()) and (zero >= 0).all() and (zero < 2 ** grid["bits"]).all()


@pytest.mark.parametrize(("grid", "mask"), list(itertools.product(GRIDS, MASKS)))
def test_summed_errors_equal_the_loss_of_pruning_and_rounding_together(grid, mask):
    weight, inputs, done = quantized(grid, mask, SWEEP)
    assert done.loss == pytest.approx(quadratic(done.weight - weight, damped(inputs)), rel=2e-3)


@pytest.mark.parametrize(("grid", "mask"), list(itertools.product(GRIDS, MASKS)))
def test_the_numba_kernel_rounds_as_the_readable_one(grid, mask):
    _, _, fast = quantized(grid, mask, SWEEP, seed=3, kernel="numba")
    _, _, slow = quantized(grid, mask, SWEEP, seed=3, kernel="torch")
    assert (fast.codes == slow.codes).float().mean() > 0.995
    assert fast.loss == pytest.approx(slow.loss, rel=1e-2)


@pytest.mark.parametrize("mask", MASKS[1:])
@pytest.mark.parametrize("grid", GRIDS)
def test_zeros_of_a_pruned_matrix_survive_a_later_quantization(grid, mask):
    weight, inputs = layer(seed=4)
    sparse = compress_layer(weight, LayerStatistics.from_inputs(inputs), compensation=SWEEP, **mask)
    later = compress_layer(
        sparse.weight,
        LayerStatistics.from_inputs(inputs),
        pattern={"name": "existing"},
        quantizer={"name": "affine", **grid},
        compensation=SWEEP,
    )
    assert not later.weight[~sparse.keep].any()


def test_activation_order_is_the_natural_sweep_of_permuted_columns():
    weight, inputs = layer(seed=5)
    order = inputs.square().mean(dim=0).argsort(descending=True, stable=True)
    by_hand = compress_layer(
        weight[:, order],
        LayerStatistics.from_inputs(inputs[:, order]),
        quantizer={"name": "affine", "bits": 4},
        compensation=SWEEP,
    )
    done = quantized({"bits": 4, "order": "activation"}, {}, SWEEP, seed=5)[2]
    torch.testing.assert_close(done.weight[:, order], by_hand.weight, rtol=1e-4, atol=1e-4)


def test_static_groups_are_runs_of_the_original_columns():
    _, _, done = quantized({"bits": 4, "order": "activation", "group_size": 8, "static_groups": True}, {}, SWEEP)
    assert done.group.tolist() == [column // 8 for column in range(40)]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_grid_spans_its_row_and_holds_zero(bits, symmetric):
    values = torch.randn(30, 20, generator=torch.Generator().manual_seed(bits))
    values[0] = values[0].abs()
    values[1] = -values[1].abs()
    values[2] = 0
    scale, zero = QUANTIZERS.build({"name": "affine", "bits": bits, "symmetric": symmetric}).fit(values)
    for row, step, middle in zip(values.tolist(), scale.tolist(), zero.tolist(), strict=True):
        low, high = min(*row, 0.0), max(*row, 0.0)
        if symmetric:
            high = max(-low, high)
            low = -high
        if low == high == 0:
            low, high = -1.0, 1.0
        assert step == pytest.approx((high - low) / (2**bits - 1), rel=1e-5)
        assert middle == (2 ** (bits - 1) if symmetric else pytest.approx(round(-low / step), abs=1))


def test_the_mse_search_finds_the_least_error_of_its_eighty_ranges():
    values = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    values[:, 0] *= 6
    found = QUANTIZERS.build({"name": "affine", "bits": 3, "search": "mse"}).fit(values)

    def error(row: torch.Tensor, step: float, zero: float) -> float:
        codes = ((row / step).round() + zero).clamp(0, 7)
        return float((step * (codes - zero) - row).abs().pow(2.4).sum())

    for index, row in enumerate(values):
        low, high = min(float(row.min()), 0.0), max(float(row.max()), 0.0)
        tried = []
        for part in range(80):
            step = (1 - part / 100) * (high - low) / 7
            tried.append(error(row, step, round(-(1 - part / 100) * low / step)))
        assert error(row, float(found[0][index]), float(found[1][index])) == pytest.approx(min(tried), rel=1e-3)


def test_compensation_beats_plain_rounding():
    weight, inputs, swept = quantized({"bits": 3}, {}, SWEEP)
    plain = quantized({"bits": 3}, {}, NONE)[2]
    hessian = damped(inputs)
    assert quadratic(swept.weight - weight, hessian) < 0.8 * quadratic(plain.weight - weight, hessian)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"bits": 9}, "less than or equal to 8, got 9"),
        ({"bits": 1}, "greater than or equal to 2, got 1"),
        ({"bits": "4"}, "is the text '4' where a number is needed"),
        ({"group_size": 0}, "group_size"),
        ({"order": "act"}, "'natural' or 'activation'"),
        ({"bit": 4}, "did you mean 'bits'"),
    ],
)
def test_wrong_settings_are_told_in_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        QUANTIZERS.build({"name": "affine", **settings})
