"""The improved saliency criterion in its two forms."""

import pytest
import torch
from problems import damped, layer

from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.settings.method import build_method, compress_layer

BLOCK = {"pattern": {"name": "unstructured"}, "sparsity": 0.5, "compensation": {"name": "sweep"}}


def column_scale(saliency: dict, inputs: torch.Tensor) -> torch.Tensor:
    method = build_method({"saliency": saliency, **BLOCK})
    prepared = method.prepare(LayerStatistics.from_inputs(inputs))
    return method.saliency.column_scale(prepared.columns, inputs.shape[-1]).double()


def test_the_paper_form_is_obd_plus_obs_saliency():
    _, inputs = layer()
    hessian = damped(inputs)
    expected = hessian.diagonal() + 1 / torch.linalg.inv(hessian).diagonal()
    torch.testing.assert_close(column_scale({"name": "isc", "form": "paper"}, inputs), expected, rtol=1e-4, atol=0)


def test_the_paper_form_lies_between_obd_and_twice_obd():
    _, inputs = layer(seed=1)
    ratio = column_scale({"name": "isc"}, inputs) / damped(inputs).diagonal()
    assert (ratio > 1).all() and (ratio <= 2 + 1e-4).all()


def test_the_code_form_takes_the_hessian_by_sequences_and_u_unsquared():
    _, inputs = layer()
    sequences = inputs.reshape(8, 50, 40)
    hessian = damped(inputs) * (2 * 400 / 8)
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    expected = hessian.diagonal() + 1 / upper.diagonal()
    torch.testing.assert_close(column_scale({"name": "isc", "form": "code"}, sequences), expected, rtol=1e-3, atol=0)


def test_only_the_code_form_depends_on_the_scale_of_the_activations():
    weight, inputs = layer(rows=64, seed=2)

    def keep(form: str, scale: float) -> torch.Tensor:
        known = LayerStatistics.from_inputs(inputs * scale)
        return compress_layer(weight, known, saliency={"name": "isc", "form": form}, **BLOCK).keep

    assert torch.equal(keep("paper", 1.0), keep("paper", 2.0**-6))
    assert not torch.equal(keep("code", 1.0), keep("code", 2.0**-6))


@pytest.mark.parametrize("scope", ["row", "matrix"])
def test_wanda_squared_ranks_as_wanda(scope):
    weight, inputs = layer()
    known = LayerStatistics.from_inputs(inputs)
    pattern = {"name": "unstructured", "scope": scope}
    keeps = [
        compress_layer(weight, known, saliency={"name": name}, pattern=pattern, sparsity=0.5).keep
        for name in ("wanda", "wanda_squared")
    ]
    assert torch.equal(*keeps)
