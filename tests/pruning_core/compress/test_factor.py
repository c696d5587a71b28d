"""The inverse factor against explicit inverses."""

import pytest
import torch
from problems import damped, layer

from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.compress.factor import _invert_upper, factorize
from pruning_core.errors import ComputationError


def test_each_squared_diagonal_is_the_corner_of_the_inverse_of_what_remains():
    _, inputs = layer()
    factor = factorize(LayerStatistics.from_inputs(inputs).hessian(), 0.01)
    hessian = damped(inputs)
    expected = torch.stack([torch.linalg.inv(hessian[j:, j:])[0, 0] for j in range(len(hessian))])
    torch.testing.assert_close(factor.diag.double().square(), expected, rtol=2e-4, atol=0)


def test_the_factor_equals_the_cholesky_of_the_inverse():
    _, inputs = layer(seed=3)
    reference = torch.linalg.cholesky(torch.linalg.inv(damped(inputs)), upper=True)
    upper = factorize(LayerStatistics.from_inputs(inputs).hessian(), 0.01).upper
    torch.testing.assert_close(upper.double(), reference, rtol=1e-3, atol=1e-4)


def test_squared_column_norms_are_the_diagonal_of_the_inverse():
    _, inputs = layer(seed=4)
    factor = factorize(LayerStatistics.from_inputs(inputs).hessian(), 0.01)
    expected = torch.linalg.inv(damped(inputs)).diagonal()
    torch.testing.assert_close(factor.inverse_diag.double(), expected, rtol=2e-4, atol=0)


def test_dead_inputs_get_a_unit_diagonal_and_a_line_in_the_ledger():
    hessian = torch.diag(torch.tensor([4.0, 0.0, 2.0, 0.0]))
    factor = factorize(hessian, 0.01)
    assert factor.dead.tolist() == [False, True, False, True]
    assert factor.events == ({"event": "dead_columns", "count": 2},)
    # The mean diagonal counts the units that stand in for the dead: (4 + 1 + 2 + 1) / 4 = 2.
    assert factor.damping == pytest.approx(0.02)
    torch.testing.assert_close(factor.damped_diag, torch.tensor([4.02, 1.02, 2.02, 1.02]))


def test_an_indefinite_hessian_is_retried_with_more_damping_and_recorded():
    hessian = torch.diag(torch.tensor([1.0, 1.0, 1.0, -0.05]))
    factor = factorize(hessian, 0.01)
    assert {"event": "damping_raised", "from": 0.01, "to": 0.1} in factor.events


@pytest.mark.parametrize(("damping", "rungs"), [(0.01, [0.01, 0.1, 1.0]), (0.05, [0.05, 0.5, 1.0]), (1.0, [1.0])])
def test_every_rung_up_to_the_ceiling_is_tried_in_float32_and_then_in_float64(monkeypatch, damping, rungs):
    tried = []
    monkeypatch.setattr(
        "pruning_core.compress.factor._inverse_upper",
        lambda prepared, added, dtype: tried.append((round(added, 9), dtype)),
    )
    factor = factorize(2 * torch.eye(3), damping)
    assert tried == [(round(2 * rung, 9), dtype) for dtype in (torch.float32, torch.float64) for rung in rungs]
    assert factor.failed


def test_float64_is_the_last_resort():
    # With the damping at its ceiling, twice the mean: [[3, b], [b, 5]], and b is the last float32 below sqrt(15).
    off = torch.tensor(15.0).sqrt()
    off = off if float(off) ** 2 < 15 else torch.nextafter(off, torch.tensor(0.0))
    factor = factorize(torch.tensor([[1.0, off], [off, 3.0]]), 0.01)
    assert factor.events == ({"event": "damping_raised", "from": 0.01, "to": 1.0}, {"event": "float64_factor"})
    # The corner of the inverse, 5 / determinant.
    assert float(factor.diag[0]) ** 2 == pytest.approx(5 / (15 - float(off) ** 2), rel=1e-3)


def test_what_cannot_be_factored_is_recorded_and_replaced_by_its_damped_diagonal_never_by_an_identity():
    factor = factorize(torch.tensor([[1.0, 12.0], [12.0, 9.0]]), 0.01)
    assert factor.failed
    assert factor.events == ({"event": "factor_failed", "damping": 1.0, "instead": "diagonal"},)
    # The mean diagonal is 5.
    torch.testing.assert_close(factor.damped_diag, torch.tensor([1.05, 9.05]))
    torch.testing.assert_close(factor.upper.square().inverse(), torch.diag(factor.damped_diag))


def test_a_negative_diagonal_fails_outright():
    with pytest.raises(ComputationError, match="negative diagonal entries"):
        factorize(torch.tensor([[1.0, 0.0], [0.0, -5.0]]), 0.01)


def test_the_hessian_given_is_not_modified():
    hessian = torch.diag(torch.tensor([4.0, 0.0, 2.0]))
    before = hessian.clone()
    factorize(hessian, 0.01)
    assert torch.equal(hessian, before)


@pytest.mark.parametrize("size", [1, 5, 256, 257, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_triangular_matrix_is_inverted_in_halves(size, dtype):
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(size), dtype=dtype).triu() / size
    matrix.diagonal().add_(2.0)
    inverse = matrix.clone()
    _invert_upper(inverse)
    assert torch.equal(inverse, inverse.triu())
    error = (inverse @ matrix - torch.eye(size, dtype=dtype)).abs().max()
    assert error < (1e-5 if dtype == torch.float32 else 1e-13)
