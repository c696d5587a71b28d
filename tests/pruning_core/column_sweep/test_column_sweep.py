"""The column sweep: loss identity, exact least squares, and kernels against each other."""

import pytest
import torch
from problems import EVERY_KERNEL, damped, layer, quadratic

from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.column_sweep import Choice, column_sweep
from pruning_core.column_sweep.kernels import kernel_for
from pruning_core.compress.factor import factorize
from pruning_core.errors import InputError
from pruning_core.settings.method import compress_layer

CPU = torch.device("cpu")


def swept(kernel: str, choice: Choice, block: int, seed: int = 0):
    weight, inputs = layer(seed=seed)
    factor = factorize(LayerStatistics.from_inputs(inputs).hessian(), 0.01)
    scale = factor.diag.square().reciprocal()
    return weight, inputs, column_sweep(weight, factor.upper, scale, choice, block, kernel_for(kernel, CPU))


@pytest.mark.parametrize("kernel", EVERY_KERNEL)
@pytest.mark.parametrize("block", [1, 7, 16, 40, 128])
def test_removing_a_prefix_of_columns_leaves_the_exact_least_squares_fit(kernel, block):
    gone = torch.zeros(24, 40, dtype=torch.bool)
    gone[:, :11] = True
    weight, inputs, done = swept(kernel, Choice(fixed=gone), block)
    hessian = damped(inputs)
    refit = (
        weight[:, 11:].double() + torch.linalg.solve(hessian[11:, 11:], hessian[11:, :11] @ weight[:, :11].double().T).T
    )
    torch.testing.assert_close(done.weight[:, 11:].double(), refit, rtol=1e-3, atol=1e-3)
    assert not done.weight[:, :11].any()


@pytest.mark.parametrize("kernel", EVERY_KERNEL)
@pytest.mark.parametrize("seed", range(3))
def test_summed_errors_equal_the_quadratic_loss_of_the_change(kernel, seed):
    gone = torch.rand(24, 40, generator=torch.Generator().manual_seed(seed)) < 0.5
    weight, inputs, done = swept(kernel, Choice(fixed=gone), 16, seed)
    assert done.loss == pytest.approx(quadratic(done.weight - weight, damped(inputs)), rel=1e-3)


@pytest.mark.parametrize("block", [8, 13, 16, 128])
def test_the_lazy_update_makes_no_difference_to_a_fixed_mask(block):
    gone = torch.rand(24, 40, generator=torch.Generator().manual_seed(9)) < 0.6
    _, _, one_by_one = swept("torch", Choice(fixed=gone), 1)
    _, _, blocked = swept("torch", Choice(fixed=gone), block)
    torch.testing.assert_close(blocked.weight, one_by_one.weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_of_m", [None, (2, 4), (1, 4), (4, 8), (3, 5)])
def test_the_numba_kernel_repeats_the_readable_one(n_of_m):
    weight, inputs = layer(rows=200, columns=120, tokens=600, seed=5)
    pattern = {"name": "n_of_m", "n": n_of_m[0], "m": n_of_m[1]} if n_of_m else {"name": "unstructured"}
    done = [
        compress_layer(
            weight,
            LayerStatistics.from_inputs(inputs),
            saliency={"name": "obs"},
            pattern=pattern,
            sparsity=None if n_of_m else 0.6,
            compensation={"name": "sweep", "block": 32},
            kernel=kernel,
        )
        for kernel in ("numba", "torch")
    ]
    assert (done[0].keep == done[1].keep).float().mean() > 0.9999
    assert done[0].loss == pytest.approx(done[1].loss, rel=1e-4)


def test_the_number_of_threads_does_not_change_what_the_numba_kernel_computes():
    weight, inputs = layer(rows=300, columns=64, tokens=300, seed=6)
    known = LayerStatistics.from_inputs(inputs)
    spec = {"saliency": {"name": "obs"}, "pattern": {"name": "unstructured"}, "compensation": {"name": "sweep"}}
    threads = torch.get_num_threads()
    try:
        outcomes = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            outcomes.append(compress_layer(weight, known, sparsity=0.5, kernel="numba", **spec).weight)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outcomes[0], outcomes[2], rtol=1e-4, atol=1e-5)


def test_an_unknown_kernel_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'numba'"):
        kernel_for("nubma", CPU)
