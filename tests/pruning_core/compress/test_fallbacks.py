"""Hessians that are really broken, and how many of them a run may have."""

import pytest
import torch
from problems import damped, layer, quadratic

from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.compress.fallbacks import check_fallbacks, fallbacks
from pruning_core.errors import ComputationError
from pruning_core.numerics.selection import rounded_count
from pruning_core.settings.method import compress_layer

OBS = {"saliency": {"name": "obs"}, "pattern": {"name": "unstructured"}, "sparsity": 0.6}
TINY = 1e-9
"""A damping that leaves a singular Hessian singular in float32."""


def broken(kind: str) -> torch.Tensor:
    """Inputs [400, 40] whose Hessian is hard to factor."""
    _, inputs = layer()
    if kind == "duplicated channels":
        inputs[:, 1], inputs[:, 7] = inputs[:, 0], 2 * inputs[:, 3]
    elif kind == "fewer tokens than channels":
        inputs = inputs[:12]
    elif kind == "huge outlier":
        inputs[:, 5] *= 1e6
    elif kind == "dead columns":
        inputs[:, 4:9] = 0
    return inputs


KINDS = ["duplicated channels", "fewer tokens than channels", "huge outlier", "dead columns"]


def sweep(damping: float) -> dict:
    return {"name": "sweep", "block": 16, "damping": damping}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damping", [0.01, TINY])
def test_broken_inputs_give_finite_weights_the_exact_budget_and_the_true_loss(kind: str, damping: float):
    weight, inputs = layer()[0], broken(kind)
    done = compress_layer(weight, LayerStatistics.from_inputs(inputs), compensation=sweep(damping), **OBS)
    assert torch.isfinite(done.weight).all() and not done.weight[~done.keep].any()
    assert int((~done.keep).sum()) == rounded_count(weight.numel(), 0.6)
    used = next((event["to"] for event in done.events if event["event"] == "damping_raised"), damping)
    dead = (inputs == 0).all(dim=0)
    hessian = damped(inputs, 0.0)
    hessian[dead, dead] = 1.0
    hessian += used * hessian.diagonal().mean() * torch.eye(40, dtype=torch.float64)
    start = weight.masked_fill(dead, 0.0)
    assert done.loss == pytest.approx(quadratic(done.weight - start, hessian), rel=2e-3)


@pytest.mark.parametrize("kind", ["duplicated channels", "fewer tokens than channels"])
def test_a_singular_hessian_with_hardly_any_damping_is_retried_with_more_and_recorded(kind: str):
    hessian = LayerStatistics.from_inputs(broken(kind)).hessian()
    assert torch.linalg.matrix_rank(hessian.double(), rtol=1e-6) < 40
    done = compress_layer(layer()[0], LayerStatistics.from_inputs(broken(kind)), compensation=sweep(TINY), **OBS)
    [event] = done.events
    assert event["event"] == "damping_raised" and event["from"] == TINY and TINY < event["to"] <= 1e-4


def test_a_hessian_that_rounding_made_indefinite_is_retried_with_more_damping():
    weight, inputs = layer()
    inputs[:, 20:] = inputs[:, :20] + 0.01 * inputs[:, 20:]
    known = LayerStatistics.from_inputs(inputs)
    known.moment = known.moment.bfloat16().float()
    hessian = known.hessian().double()
    lowest = float(torch.linalg.eigvalsh(hessian)[0] / hessian.diagonal().mean())
    assert -1e-2 < lowest < -1e-5
    done = compress_layer(weight, known, compensation=sweep(1e-5), **OBS)
    [event] = done.events
    # The first tenfold that outweighs the most negative eigenvalue.
    assert event == {"event": "damping_raised", "from": 1e-5, "to": next(d for d in (1e-4, 1e-3, 1e-2) if d > -lowest)}
    assert int((~done.keep).sum()) == rounded_count(weight.numel(), 0.6)


def test_the_default_damping_bears_all_of_them_without_a_retry():
    for kind in KINDS:
        done = compress_layer(layer()[0], LayerStatistics.from_inputs(broken(kind)), compensation=sweep(0.01), **OBS)
        assert {event["event"] for event in done.events} <= {"dead_columns"}, kind


def hopeless() -> LayerStatistics:
    """Statistics that rounding or a bug made indefinite beyond any damping: unit diagonal, -1.5 beside it."""
    known = LayerStatistics.from_inputs(layer()[1])
    scale = known.hessian().diagonal().sqrt()
    indefinite = torch.eye(40)
    indefinite[0, 1:] = indefinite[1:, 0] = -1.5
    known.moment = indefinite * scale[:, None] * scale * known.tokens
    return known


CASES = {
    "block": OBS,
    "2:4": {"saliency": {"name": "obs"}, "pattern": {"name": "n_of_m", "n": 2, "m": 4}},
    "isc": OBS | {"saliency": {"name": "isc"}},
    "joint, act-order": OBS | {"quantizer": {"name": "affine", "bits": 4, "order": "activation"}},
}


@pytest.mark.parametrize("case", CASES)
def test_a_hopeless_hessian_is_refused_by_default_and_else_ranked_as_wanda_without_compensation(case: str):
    weight, settings = layer()[0], CASES[case] | {"compensation": sweep(0.01)}
    with pytest.raises(ComputationError, match=r"not positive definite even in float64.*max_fallbacks to 1"):
        compress_layer(weight, hopeless(), **settings)
    done = compress_layer(weight, hopeless(), max_fallbacks=1, **settings)
    assert done.events == ({"event": "factor_failed", "damping": 1.0, "instead": "diagonal"},)
    # Wanda's score with the damped mean squares of the inputs, and the survivors as they were (but for rounding).
    scale = damped(layer()[1]).diagonal()
    score = weight.double().square() * scale
    for first in range(0, 40, 16):
        columns = slice(first, first + 16)
        kept, lost = score[:, columns][done.keep[:, columns]], score[:, columns][~done.keep[:, columns]]
        if case in ("block", "isc"):
            assert lost.max() <= kept.min() * (1 + 1e-5)
    if case == "2:4":
        expected = score.reshape(24, 10, 4).argsort(dim=2).argsort(dim=2).reshape(24, 40) >= 2
        assert torch.equal(done.keep, expected)
    if case == "joint, act-order":
        assert (done.weight - weight)[done.keep].abs().max() <= done.scale.max() / 2 + 1e-5
        assert int((~done.keep).sum()) == rounded_count(weight.numel(), 0.6)
    else:
        torch.testing.assert_close(done.weight[done.keep], weight[done.keep])
    assert done.loss == pytest.approx(quadratic(done.weight - weight, torch.diag(scale)), rel=1e-3)


def ledger(*failed: str) -> list[dict]:
    others = [
        {"layer": "a", "event": "dead_columns", "count": 2},
        {"layer": "b", "event": "damping_raised", "from": 0.01, "to": 0.1},
        {"layer": "c", "event": "float64_factor"},
    ]
    return others + [{"layer": name, "event": "factor_failed"} for name in failed]


def test_retries_and_dead_columns_are_no_fallbacks():
    assert fallbacks(ledger("x", "y")) == ["x", "y"]
    check_fallbacks(ledger(), 0)


def test_as_many_as_allowed_pass_and_one_more_fails_with_the_names_of_the_layers():
    check_fallbacks(ledger("x", "y"), 2)
    with pytest.raises(ComputationError, match=r"^x, y: .* set max_fallbacks to 2 or more \(it is 1\)"):
        check_fallbacks(ledger("x", "y"), 1)


def test_many_layers_are_counted_after_the_first_six():
    with pytest.raises(ComputationError, match=r"^l0, l1, l2, l3, l4, l5 and 14 more: ") as raised:
        check_fallbacks(ledger(*(f"l{index}" for index in range(20))), 0)
    assert "\n" not in str(raised.value)
