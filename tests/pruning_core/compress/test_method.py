"""Contract of every registered method, and what wrong settings say."""

import itertools

import pytest
import torch
from problems import damped, layer, quadratic

from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.errors import ComputationError, InputError
from pruning_core.numerics.selection import rounded_count
from pruning_core.patterns import PATTERNS
from pruning_core.registry import Registry
from pruning_core.saliency import SALIENCIES
from pruning_core.settings.method import build_method, compress_layer

SHAPES = [
    {"name": "unstructured", "scope": "block"},
    {"name": "unstructured", "scope": "row"},
    {"name": "unstructured", "scope": "matrix"},
    {"name": "n_of_m", "n": 2, "m": 4},
    {"name": "n_of_m", "n": 1, "m": 8},
    {"name": "n_of_m", "n": 3, "m": 7, "ragged": "proportional"},
    {"name": "block", "rows": 4, "columns": 8},
    {"name": "alpha_search"},
]
COMPENSATIONS = [{"name": "none", "block": 16}, {"name": "sweep", "block": 16}]
EVERY = list(itertools.product(SALIENCIES.names(), SHAPES, COMPENSATIONS))


def compressed(saliency, pattern, compensation, sparsity=0.6, seed=0, scale=1.0):
    weight, inputs = layer(seed=seed)
    wanted = None if pattern["name"] == "n_of_m" else sparsity
    known = LayerStatistics.from_inputs(inputs * scale)
    spec = {"saliency": {"name": saliency}, "pattern": pattern, "compensation": compensation}
    return weight, inputs * scale, compress_layer(weight, known, sparsity=wanted, **spec)


def budget(pattern: dict, weight: torch.Tensor) -> tuple[int, int]:
    """Fewest and most removed weights at sparsity 0.6, worked out by hand for 24 x 40."""
    exact = rounded_count(weight.numel(), 0.6)
    if pattern["name"] == "n_of_m":
        rows, columns = weight.shape
        whole, rest = divmod(columns, pattern["m"])
        # ceil(3 * 5 / 7) = 3 of the last 5 stay.
        count = rows * (whole * (pattern["m"] - pattern["n"]) + (rest - 3 if rest else 0))
        return count, count
    if pattern["name"] == "block":
        return exact, exact + 31
    if pattern["name"] == "alpha_search":
        # It cannot always get there: no row may lose more than 0.8 of its score.
        return 0, weight.numel()
    return exact, exact


@pytest.mark.parametrize(("saliency", "pattern", "compensation"), EVERY)
def test_every_method_removes_its_exact_count_and_leaves_exact_zeros(saliency, pattern, compensation):
    weight, _, done = compressed(saliency, pattern, compensation)
    removed = int((~done.keep).sum())
    low, high = budget(pattern, weight)
    assert low <= removed <= high
    assert not done.weight[~done.keep].any()
    assert torch.isfinite(done.weight).all()


@pytest.mark.parametrize(("saliency", "pattern", "compensation"), EVERY)
def test_the_reported_loss_is_the_quadratic_form_of_the_change(saliency, pattern, compensation):
    weight, inputs, done = compressed(saliency, pattern, compensation)
    if done.loss is None:
        assert compensation["name"] == "none" and saliency in ("magnitude", "wanda", "wanda_squared")
        return
    assert done.loss == pytest.approx(quadratic(done.weight - weight, damped(inputs)), rel=1e-3)


@pytest.mark.parametrize(("saliency", "pattern", "compensation"), EVERY)
def test_the_scale_of_the_inputs_changes_no_mask(saliency, pattern, compensation):
    # (The published code form of ISC does depend on it: see test_isc.)
    _, _, done = compressed(saliency, pattern, compensation)
    # A power of two scales every float32 product exactly.
    _, _, scaled = compressed(saliency, pattern, compensation, scale=0.25)
    assert (done.keep == scaled.keep).float().mean() > 0.999


@pytest.mark.parametrize(("saliency", "pattern", "compensation"), EVERY)
def test_no_method_modifies_its_arguments(saliency, pattern, compensation):
    weight, inputs = layer()
    known = LayerStatistics.from_inputs(inputs)
    before = weight.clone(), known.moment.clone()
    wanted = None if pattern["name"] == "n_of_m" else 0.5
    compress_layer(
        weight, known, saliency={"name": saliency}, pattern=pattern, sparsity=wanted, compensation=compensation
    )
    assert torch.equal(weight, before[0]) and torch.equal(known.moment, before[1])


@pytest.mark.parametrize("saliency", SALIENCIES.names())
@pytest.mark.parametrize("scope", ["block", "row", "matrix"])
def test_sparsity_zero_changes_nothing(saliency, scope):
    pattern = {"name": "unstructured", "scope": scope}
    weight, _, done = compressed(saliency, pattern, {"name": "sweep"}, sparsity=0.0)
    assert done.keep.all()
    torch.testing.assert_close(done.weight, weight)


def test_compensation_lowers_the_loss_of_the_same_mask():
    pattern = {"name": "unstructured", "scope": "row"}
    weight, inputs, plain = compressed("wanda", pattern, {"name": "none"})
    _, _, adapted = compressed("wanda", pattern, {"name": "sweep"})
    assert torch.equal(plain.keep, adapted.keep)
    hessian = damped(inputs)
    assert quadratic(adapted.weight - weight, hessian) < quadratic(plain.weight - weight, hessian)


def test_wanda_keeps_the_largest_products_of_weight_and_input_norm_in_each_row():
    weight, inputs = layer()
    done = compress_layer(
        weight,
        LayerStatistics.from_inputs(inputs),
        saliency={"name": "wanda"},
        pattern={"name": "unstructured", "scope": "row"},
        sparsity=0.5,
    )
    score = weight.abs() * inputs.norm(dim=0)
    for row, keep in zip(score, done.keep, strict=True):
        assert set(keep.nonzero().flatten().tolist()) == set(row.argsort()[20:].tolist())


def test_dead_columns_go_first_and_are_recorded():
    weight, inputs = layer()
    inputs[:, 5] = 0
    done = compress_layer(
        weight,
        LayerStatistics.from_inputs(inputs),
        saliency={"name": "obs"},
        pattern={"name": "unstructured"},
        sparsity=0.5,
        compensation={"name": "sweep"},
    )
    assert not done.weight[:, 5].any() and not done.keep[:, 5].any()
    assert done.events == ({"event": "dead_columns", "count": 1},)


def test_rows_share_the_remainder_so_that_the_matrix_meets_its_budget():
    weight, _, done = compressed("magnitude", {"name": "unstructured", "scope": "row"}, {"name": "none"}, 0.61)
    per_row = (~done.keep).sum(dim=1)
    assert int(per_row.sum()) == round(0.61 * weight.numel())
    assert set(per_row.tolist()) == {24, 25}


def test_a_method_that_needs_statistics_says_so():
    with pytest.raises(ComputationError, match="'wanda' needs calibration statistics"):
        compress_layer(torch.ones(4, 4), saliency={"name": "wanda"}, pattern={"name": "unstructured"}, sparsity=0.5)


GOOD = {"saliency": {"name": "obs"}, "pattern": {"name": "unstructured"}, "sparsity": 0.5}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pattern": 124}, r"unquoted 2:4; write \{name: n_of_m, n: 2, m: 4\}"),
        ({"pattern": "2:4"}, r"write \{name: n_of_m, n: 2, m: 4\}"),
        ({"pattern": {"name": "n_of_m", "n": 4, "m": 4}, "sparsity": None}, "n must be below m, got 4:4"),
        ({"pattern": {"name": "n_of_m", "n": 2, "m": 4}}, "sparsity cannot be set"),
        ({"sparsity": 1.0}, r"fraction in \[0, 1\), got 1.0"),
        ({"sparsity": -0.1}, r"fraction in \[0, 1\)"),
        ({"sparsity": "50%"}, "is the text '50%'"),
        ({"sparsity": None}, "sparsity is missing"),
        ({"saliency": {"name": "wonda"}}, "did you mean 'wanda'"),
        ({"saliency": "wanda"}, "must be a mapping .* with one of the names isc, magnitude, obs"),
        ({"pattern": {"name": 124}}, r"unquoted 2:4; write \{name: n_of_m, n: 2, m: 4\}"),
        ({"compensation": {"name": "sweep", "dampng": 0.01}}, "did you mean 'damping'"),
        ({"compensation": {"name": "sweep", "damping": "1e-2"}}, "YAML 1.1 reads 1e-2 as text: write 0.01"),
        ({"compensation": {"name": "sweep", "damping": 0}}, "greater than 0, got 0"),
        ({"compensation": {"name": "sweep", "block": 12.5}}, "block"),
        ({"kernel": "torhc"}, "did you mean 'torch'"),
    ],
)
def test_wrong_settings_are_told_in_one_sentence(change, sentence):
    with pytest.raises(InputError, match=sentence) as raised:
        build_method({**GOOD, **change}, "variants.x")
    assert "\n" not in str(raised.value)


def test_a_width_that_m_does_not_divide_is_refused_with_the_numbers():
    with pytest.raises(InputError, match="divisible by 8, got 172"):
        PATTERNS.build({"name": "n_of_m", "n": 4, "m": 8}).check(172)


def test_a_method_file_that_does_not_import_is_not_hidden(tmp_path, monkeypatch):
    package = tmp_path / "broken_methods"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "bad.py").write_text("raise RuntimeError('broken file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="broken file"):
        Registry("method", "broken_methods").names()
