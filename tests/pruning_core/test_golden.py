"""Against tensors that the public reference implementations made from real trained layers."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pruning_core.method import compress_layer
from pruning_core.statistics import LayerStatistics

SALIENCY = {"sparsegpt": "obs", "wanda": "wanda", "magnitude": "magnitude"}
SCOPE = {"sparsegpt": "block", "wanda": "row", "magnitude": "matrix"}
LAYERS = (
    "code2.8M-block2-down_proj",
    "code2.8M-block2-o_proj",
    "stories260K-block1-down_proj",
    "stories260K-block1-q_proj",
)


def parsed(case: str) -> tuple[str, dict, float | None] | None:
    """(method, pattern, sparsity) of a case name such as sparsegpt-2of4, or None for other kinds of method."""
    found = re.fullmatch(r"(sparsegpt|wanda|magnitude)-(?:keep)?(?:(0\.\d+)|(\d)of(\d))", case)
    if not found:
        return None
    method, fraction, n, m = found.groups()
    if n:
        return method, {"name": "n_of_m", "n": int(n), "m": int(m)}, None
    pattern = {"name": "unstructured", "scope": SCOPE[method]}
    # The published Wanda truncates per row; exact counts would differ from it by the remainder.
    return method, pattern | ({"rounding": "floor"} if method == "wanda" else {}), float(fraction)


@pytest.mark.parametrize("kernel", ["torch", "numba"])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_result_is_that_of_the_reference_implementation(shared: Path, layer: str, kernel: str):
    tensors = load_file(shared / "golden" / f"{layer}.safetensors")
    weight, hessian = tensors["weight"], tensors["hessian"].double()
    known = LayerStatistics.from_inputs(tensors["inputs"])
    compared = 0
    for name, reference in tensors.items():
        case = parsed(name.removeprefix("out/"))
        if case is None or (case[1]["name"] == "n_of_m" and weight.shape[1] % case[1]["m"]):
            continue
        method, pattern, sparsity = case
        compensation = {"name": "sweep"} if method == "sparsegpt" else {"name": "none"}
        done = compress_layer(
            weight,
            known,
            saliency={"name": SALIENCY[method]},
            pattern=pattern,
            sparsity=sparsity,
            compensation=compensation,
            kernel=kernel,
        )
        compare(name, weight, hessian, done.weight, reference, exact=method != "sparsegpt" or sparsity is None)
        compared += 1
    assert compared >= 3


def compare(name, weight, hessian, ours, reference, exact):
    def loss(final):
        change = (final - weight).double()
        return float((change @ hessian * change).sum())

    extra = int((reference == 0).sum() - (ours == 0).sum())
    blocks = -(-weight.shape[1] // 128)
    # The reference removes every score up to the one at the cut: one weight more per block or matrix, and ties.
    assert 0 <= extra <= blocks + 2, name
    # Each of those moves the loss by about its share of the removed weights.
    slack = 1e-3 + 3 * extra / (ours == 0).sum().item()
    assert loss(ours) == pytest.approx(loss(reference), rel=slack), name
    assert ((ours == 0) == (reference == 0)).float().mean() >= (1 - 2 * extra / weight.numel() if exact else 0.999), name


def test_the_hessian_is_the_references_up_to_their_normalisation(shared: Path):
    tensors = load_file(shared / "golden" / "stories260K-block1-q_proj.safetensors")
    known = LayerStatistics.from_inputs(tensors["inputs"])
    # Theirs: 2 / sequences times the sum of x x^T.
    ours = known.hessian() * (2 * known.tokens / known.sequences)
    torch.testing.assert_close(ours, tensors["hessian"], rtol=1e-4, atol=1e-4 * float(tensors["hessian"].abs().max()))
