"""Cases of the reference tensors, and how close a result has to come."""

import re

import pytest

SALIENCY = {
    "sparsegpt": {"name": "obs"},
    "wanda": {"name": "wanda"},
    "magnitude": {"name": "magnitude"},
    "isc_code": {"name": "isc", "form": "code"},
}


SCOPE = {"wanda": "row", "magnitude": "matrix"}


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
        # Exact counts would differ: by the remainder of a row for Wanda, else by one weight per block or matrix.
        rounding = "floor" if method == "wanda" else "published"
        pattern = {"name": "unstructured", "scope": SCOPE.get(method, "block"), "rounding": rounding}
        settings |= {"sparsity": float(shape), "pattern": pattern}
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


def compare(case, weight, hessian, ours, reference):
    def loss(final):
        change = (final - weight).double()
        return float((change @ hessian * change).sum())

    # Equal but for codes on the edge between two; and, where a threshold over all rows chooses, for weights on the edge
    # of the mask, each of which changes the rest of its row.
    thresholds = case.startswith(("sparsegpt", "isc")) and "of" not in case
    assert ((ours == 0) == (reference == 0)).float().mean() > 0.999, case
    assert (ours - reference).abs().gt(1e-4).float().mean() < (0.05 if thresholds else 1e-3), case
    assert loss(ours) == pytest.approx(loss(reference), rel=1e-3), case
