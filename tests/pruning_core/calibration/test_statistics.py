"""The Hessian against its definition."""

import pytest
import torch

from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.errors import ComputationError


def test_the_hessian_is_the_mean_outer_product_whatever_the_batches():
    inputs = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0))
    expected = sum(torch.outer(x, x) for x in inputs.reshape(-1, 8).double()) / 30
    uneven = LayerStatistics(8).add(inputs[:1]).add(inputs[1:]).hessian()
    torch.testing.assert_close(uneven.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [1, 255, 256, 257, 700])
def test_a_hessian_of_several_strips_is_whole_and_symmetric(width):
    inputs = torch.randn(40, width, generator=torch.Generator().manual_seed(width))
    hessian = LayerStatistics.from_inputs(inputs).hessian()
    assert torch.equal(hessian, hessian.T)
    torch.testing.assert_close(hessian.double(), inputs.double().T @ inputs.double() / 40, rtol=1e-4, atol=1e-5)


def test_the_diagonal_alone_equals_the_diagonal_of_the_whole():
    inputs = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    alone = LayerStatistics.from_inputs(inputs, full=False).hessian_diag()
    torch.testing.assert_close(alone, inputs.square().mean(dim=0))
    torch.testing.assert_close(LayerStatistics.from_inputs(inputs).hessian_diag(), alone)


def test_half_precision_inputs_are_summed_in_float32():
    inputs = torch.full((4096, 2), 60.0, dtype=torch.float16)
    assert LayerStatistics.from_inputs(inputs).hessian()[0, 1] == 3600


def test_sequences_and_tokens_are_counted():
    known = LayerStatistics.from_inputs(torch.ones(3, 7, 2)).add(torch.ones(5, 2))
    assert (known.sequences, known.tokens) == (4, 26)


def test_nan_in_the_inputs_is_an_error_not_a_result():
    known = LayerStatistics.from_inputs(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ComputationError, match="NaN or inf"):
        known.hessian()


def test_no_tokens_is_an_error():
    with pytest.raises(ComputationError, match="no calibration tokens"):
        LayerStatistics(4).hessian()


def test_a_diagonal_cannot_pass_for_a_hessian():
    with pytest.raises(ComputationError, match="only the diagonal"):
        LayerStatistics.from_inputs(torch.ones(2, 3), full=False).hessian()
