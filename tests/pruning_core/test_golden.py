"""Against tensors that the public reference implementations made from real trained layers."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pruning_core.method_settings import compress_layer
from pruning_core.statistics import LayerStatistics

SALIENCY = {
    "sparsegpt": {"name": "obs"},
    "wanda": {"name": "wanda"},
    "magnitude": {"name": "magnitude"},
    "isc_code": {"name": "isc", "form": "code"},
}
SCOPE = {"wanda": "row", "magnitude": "matrix"}
LAYERS = (
    "code2.8M-block2-down_proj",
    "code2.8M-block2-o_proj",
    "stories260K-block1-down_proj",
    "stories260K-block1-q_proj",
)


def method_of(case: str) -> dict:
    """The settings of a case such as sparsegpt-2of4-int4 or gptq-int4-sym-g64-actorder-static."""
    method, *words = case.split("-")
    if method == "gptq":
        return {"quantizer": quantizer_of(words), "compensation": {"name": "sweep"}}
    shape = words.pop(0)
    found = re.fullmatch(r"(?:keep)?(\d)of(\d)", shape)
    settings: dict = {"saliency": SALIENCY[method]}
    if found:
        # The published code removes m - n weights of a short last group too.
        n, m = map(int, found.groups())
        settings["pattern"] = {"name": "n_of_m", "n": n, "m": m, "ragged": "published"}
    else:
        settings |= {"sparsity": float(shape), "pattern": {"name": "unstructured", "scope": SCOPE.get(method, "block")}}
        if method == "wanda":
            # It also truncates per row; exact counts would differ from it by the remainder.
            settings["pattern"]["rounding"] = "floor"
    if method in ("sparsegpt", "isc_code"):
        settings["compensation"] = {"name": "sweep"}
    return settings | ({"quantizer": quantizer_of(words)} if words else {})


def quantizer_of(words: list[str]) -> dict:
    return {
        "name": "affine",
        "bits": int(words[0].removeprefix("int")),
        "symmetric": "sym" in words,
        "group_size": 64 if "g64" in words else None,
        "order": "activation" if "actorder" in words else "natural",
        "static_groups": "static" in words,
        "search": "mse" if "mse" in words else "minmax",
    }


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
        blockwise = settings.get("pattern", {}).get("scope") == "block"
        compare(case, weight, hessian, done.weight, reference, blockwise)


def compare(case, weight, hessian, ours, reference, blockwise):
    def loss(final):
        change = (final - weight).double()
        return float((change @ hessian * change).sum())

    agreement = ((ours == 0) == (reference == 0)).float().mean()
    if case.startswith(("gptq", "wanda")) or "of" in case:
        # No threshold is involved: equal but for codes that lie on the edge between two.
        assert (ours - reference).abs().gt(1e-4).float().mean() < 1e-3, case
        assert loss(ours) == pytest.approx(loss(reference), rel=1e-3), case
        return
    # The reference removes every score up to the one at the cut: one weight more per block or matrix, and ties.
    blocks = -(-weight.shape[1] // 128) if blockwise else 1
    extra = int((reference == 0).sum() - (ours == 0).sum())
    assert -2 <= extra <= blocks + 2, case
    # Those at the cut are the costliest of all that go: several times their share of the loss.
    assert loss(ours) == pytest.approx(loss(reference), rel=1e-3 + 10 * abs(extra) / (ours == 0).sum().item()), case
    assert agreement > 0.999, case


def test_the_hessian_is_the_references_up_to_their_normalisation(shared: Path):
    tensors = load_file(shared / "golden" / "stories260K-block1-q_proj.safetensors")
    known = LayerStatistics.from_inputs(tensors["inputs"])
    # Theirs: 2 / sequences times the sum of x x^T.
    ours = known.hessian() * (2 * known.tokens / known.sequences)
    torch.testing.assert_close(ours, tensors["hessian"], rtol=1e-4, atol=1e-4 * float(tensors["hessian"].abs().max()))
