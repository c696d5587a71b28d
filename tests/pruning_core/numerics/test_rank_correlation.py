import pytest
import torch
from scipy.stats import spearmanr

from pruning_core.numerics.rank_correlation import rank_correlation


@pytest.mark.parametrize("values", [2, 5, 1000])
def test_it_is_scipys_with_ties_and_without(values: int):
    draw = torch.Generator().manual_seed(values)
    first, second = torch.randn(values, generator=draw), torch.randint(0, values, (values,), generator=draw)
    for one, other in ((first, second), (second, first + second), (first, -first)):
        expected = spearmanr(one.numpy(), other.numpy()).statistic
        assert rank_correlation(one, other) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("values", [torch.ones(1), torch.ones(4)])
def test_equal_values_have_no_order(values: torch.Tensor):
    assert rank_correlation(values, torch.arange(len(values))) is None
