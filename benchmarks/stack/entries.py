"""What the section on prune and quantize compares: both in one pass, one after the other, and each alone."""

from collections.abc import Mapping

from benchmarks.quality.entries import Entry, Recipe
from benchmarks.structured.entries import PEER, Way

ROWS = {"symmetric": True}
"""One symmetric grid for each row, which all formats with integers hold as it is."""
PATTERNS = {
    "50": ("50 %", {"pattern": {"name": "unstructured", "scope": "block"}, "sparsity": 0.5}),
    "2of4": ("2:4", {"pattern": {"name": "n_of_m", "n": 2, "m": 4}}),
}
STACKS = (("50", 4), ("2of4", 8), ("2of4", 4))
RATIOS = (0.2, 0.5)


def entries(papers: Mapping[str, Recipe]) -> list[Entry]:
    """All variants, what others start from first.

    Args:
        papers: the variants of recipes/papers.yaml.
    """
    quantized = {bits: papers["gptq-int4"] | {"quantizer": _quantizer(bits)} for bits in (8, 4)}
    variants = [Entry(f"int{bits}", f"GPTQ, {bits} bits", recipe) for bits, recipe in quantized.items()]
    for pattern, (title, where) in PATTERNS.items():
        variants.append(Entry(f"sparse-{pattern}", f"SparseGPT, {title}", _pruned(papers) | where))
    for pattern, bits in STACKS:
        title, where = PATTERNS[pattern]
        joint = _pruned(papers) | where | {"quantizer": _quantizer(bits)}
        on_zeros = quantized[bits] | {"pattern": {"name": "existing"}}
        variants.append(Entry(f"joint-{pattern}-int{bits}", f"{title} and {bits} bits, one joint pass", joint))
        after = f"{title}, then {bits} bits on its zeros"
        variants.append(Entry(f"after-{pattern}-int{bits}", after, on_zeros, base=f"sparse-{pattern}"))
    for ratio in RATIOS:
        recipe = Way(PEER, ratio, form="static").recipe(0, {}, {})
        share = f"{ratio:.0%}".replace("%", " %")
        # Rows of whole blocks of 32, which GGUF needs.
        recipe["structured"] |= {"multiple": 32}
        small = Entry(f"small-{round(100 * ratio)}", f"structured, {share} of the parameters removed", recipe)
        title = f"structured {share}, then 4 bits"
        variants += [small, Entry(f"{small.name}-int4", title, quantized[4], base=small.name)]
    return variants


def _pruned(papers: Mapping[str, Recipe]) -> Recipe:
    recipe = dict(papers["sparsegpt-50"])
    del recipe["sparsity"]
    return recipe


def _quantizer(bits: int) -> Recipe:
    return {"name": "affine", "bits": bits, **ROWS}
