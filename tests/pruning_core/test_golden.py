"""Against tensors that the public reference implementations made from real trained layers."""

from pathlib import Path

import pytest
import torch
from golden_cases import compare, method_of
from safetensors.torch import load_file

from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.settings.method import compress_layer

LAYERS = (
    "code2.8M-block2-down_proj",
    "code2.8M-block2-o_proj",
    "stories260K-block1-down_proj",
    "stories260K-block1-q_proj",
)


@pytest.mark.parametrize("kernel", ["torch", "numba"])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_result_is_that_of_the_reference_implementation(shared: Path, layer: str, kernel: str):
    tensors = load_file(shared / "golden" / f"{layer}.safetensors")
    weight, hessian = tensors["weight"], tensors["hessian"].double()
    known = LayerStatistics.from_inputs(tensors["inputs"])
    cases = {name.removeprefix("out/"): value for name, value in tensors.items() if name.startswith("out/")}
    assert len(cases) >= 6
    for case, reference in cases.items():
        settings = method_of(case)
        done = compress_layer(weight, known, kernel=kernel, **settings)
        compare(case, weight, hessian, done.weight, reference)


def test_the_hessian_is_the_references_up_to_their_normalisation(shared: Path):
    tensors = load_file(shared / "golden" / "stories260K-block1-q_proj.safetensors")
    known = LayerStatistics.from_inputs(tensors["inputs"])
    # Theirs: 2 / sequences times the sum of x x^T.
    ours = known.hessian() * (2 * known.tokens / known.sequences)
    torch.testing.assert_close(ours, tensors["hessian"], rtol=1e-4, atol=1e-4 * float(tensors["hessian"].abs().max()))
