"""The inverse factor against explicit inverses."""

import pytest
import torch
from problems import damped, layer

from pruning_core.errors import ComputationError
from pruning_core.factor import factorize
from pruning_core.statistics import LayerStatistics


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


def test_what_cannot_be_factored_fails_and_is_never_replaced_by_an_identity():
    with pytest.raises(ComputationError, match="not positive definite even in float64"):
        factorize(torch.tensor([[1.0, 0.0], [0.0, -5.0]]), 0.01)


def test_the_hessian_given_is_not_modified():
    hessian = torch.diag(torch.tensor([4.0, 0.0, 2.0]))
    before = hessian.clone()
    factorize(hessian, 0.01)
    assert torch.equal(hessian, before)
