"""What the results page compares: recipes of recipes/papers.yaml, at several sparsities, in groups."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Recipe = dict[str, Any]

HERE = Path(__file__).resolve().parent
SETTINGS = HERE / "quality.yaml"
"""What all sections calibrate and judge on."""
PAPERS = HERE.parents[1] / "recipes" / "papers.yaml"

METHODS = {
    "magnitude": ("magnitude-50", "magnitude"),
    "wanda": ("wanda-50", "Wanda"),
    "wanda-alpha": ("wanda-alpha-50", "Wanda, alpha search"),
    "sparsegpt": ("sparsegpt-50", "SparseGPT"),
    "isc-code": ("isc-code-50", "ISC, as coded"),
    "isc-paper": ("isc-paper-50", "ISC, as in the paper"),
    "wanda-squared": ("wanda-squared-sweep-50", "Wanda² in the sweep"),
}
"""Method -> (recipe, title)."""
SPARSITIES = (0.5, 0.6, 0.7, 0.8)
PATTERNS = {"2of4": (2, 4), "4of8": (4, 8)}
SWEPT = ("sparsegpt", "isc-code", "isc-paper", "wanda-squared")
"""The methods that differ in their score alone."""
DRAWS = (0, 1, 2)
"""Seeds of the calibration windows."""
DRAWN_AT = (0.5, 0.7)
REFERENCE = "sparsegpt"


@dataclass(frozen=True)
class Entry:
    """One variant to make and judge."""

    name: str
    title: str
    recipe: Recipe = field(repr=False)
    base: str | None = None
    """The entry whose compressed model this one starts from, instead of the dense model."""
    seed: int | None = None
    """Of the calibration windows; None: as the settings say."""
    overrides: tuple[str, ...] = ()
    """KEY=VALUE: settings that differ for this entry."""


@dataclass(frozen=True)
class Group:
    """Entries that are compared with each other, and above all with `reference`."""

    name: str
    title: str
    reference: str
    entries: tuple[Entry, ...]
    beside: tuple[str, ...] = ()
    """Names of entries that are shown for comparison only."""


def groups(papers: Mapping[str, Recipe]) -> list[Group]:
    """All groups.

    Args:
        papers: the variants of recipes/papers.yaml.
    """
    return [
        *(_unstructured(papers, sparsity) for sparsity in SPARSITIES),
        *(_n_of_m(papers, name) for name in PATTERNS),
        _quantized(papers),
        _joint(papers),
        *(_propagated(papers, sparsity) for sparsity in DRAWN_AT),
        *(_drawn(papers, sparsity, seed) for sparsity in DRAWN_AT for seed in DRAWS),
    ]


def percent(sparsity: float) -> str:
    """0.5 -> "50"."""
    return f"{100 * sparsity:.0f}"


def at(papers: Mapping[str, Recipe], method: str, sparsity: float) -> Entry:
    """A method at an exact sparsity: Wanda too meets its budget here, where its code rounds down in every row."""
    recipe_name, title = METHODS[method]
    recipe = papers[recipe_name] | {"sparsity": sparsity}
    if method == "wanda":
        recipe["pattern"] = {"name": "unstructured", "scope": "row"}
    return Entry(f"{method}-{percent(sparsity)}", title, recipe)


def _unstructured(papers: Mapping[str, Recipe], sparsity: float) -> Group:
    shown = percent(sparsity)
    entries = tuple(at(papers, method, sparsity) for method in METHODS)
    return Group(f"unstructured-{shown}", f"{shown} % unstructured", f"{REFERENCE}-{shown}", entries)


def _n_of_m(papers: Mapping[str, Recipe], name: str) -> Group:
    n, m = PATTERNS[name]
    entries = []
    for method, (recipe_name, title) in METHODS.items():
        if method != "wanda-alpha":
            recipe = papers[recipe_name] | {"pattern": {"name": "n_of_m", "n": n, "m": m}}
            del recipe["sparsity"]
            entries.append(Entry(f"{method}-{name}", title, recipe))
    return Group(name, f"{n}:{m}", f"{REFERENCE}-{name}", tuple(entries))


def _rounding(bits: int, **settings: Any) -> Recipe:
    """Rounding to the nearest value of the grid, without compensation."""
    return {"quantizer": {"name": "affine", "bits": bits, **settings}, "compensation": {"name": "none"}}


def _quantized(papers: Mapping[str, Recipe]) -> Group:
    entries = (
        Entry("rtn-int4", "rounding, 4 bits", _rounding(4)),
        Entry("gptq-int4", "GPTQ, 4 bits", papers["gptq-int4"]),
        Entry("gptq-int4-actorder", "GPTQ, 4 bits, act-order, true-sequential", papers["gptq-int4-actorder"]),
        Entry("rtn-int4-g128", "rounding, 4 bits, groups of 128", _rounding(4, group_size=128)),
        Entry("gptq-int4-g128", "GPTQ, 4 bits, groups of 128", papers["gptq-int4-g128"]),
        Entry(
            "gptq-int4-g128-static",
            "GPTQ, 4 bits, static groups of 128, act-order, true-sequential",
            papers["gptq-int4-g128-actorder-static"],
        ),
        Entry("rtn-int3", "rounding, 3 bits", _rounding(3)),
        Entry("gptq-int3", "GPTQ, 3 bits", papers["gptq-int3"]),
    )
    return Group("quantized", "Quantized, not pruned", "gptq-int4", entries)


def _joint(papers: Mapping[str, Recipe]) -> Group:
    pruned = at(papers, REFERENCE, 0.5)
    on_zeros = {"pattern": {"name": "existing"}}
    entries = (
        Entry(pruned.name, "SparseGPT, not quantized", pruned.recipe),
        Entry("sparsegpt-50-int4", "one joint pass", papers["sparsegpt-50-int4"]),
        Entry("gptq-int4-on-zeros", "SparseGPT, then GPTQ on its zeros", papers["gptq-int4"] | on_zeros, pruned.name),
        Entry("rtn-int4-on-zeros", "SparseGPT, then rounding", _rounding(4) | on_zeros, pruned.name),
    )
    return Group("joint", "50 % unstructured and 4 bits", "sparsegpt-50-int4", entries, (pruned.name,))


def _propagated(papers: Mapping[str, Recipe], sparsity: float) -> Group:
    titles = {
        "dense": "statistics of the dense model",
        "blockwise": "compressed blocks before",
        "compressed": "compressed layers before",
    }
    entries = []
    for method in ("wanda", REFERENCE):
        plain = at(papers, method, sparsity)
        for propagate, title in titles.items():
            # The published form is the one of the other groups, under its name there.
            name = plain.name if propagate == "blockwise" else f"{plain.name}-{propagate}"
            recipe = plain.recipe | {"propagate": propagate}
            entries.append(Entry(name, f"{plain.title}, {title}", recipe))
    shown = percent(sparsity)
    return Group(f"propagated-{shown}", f"What calibration sees, {shown} %", f"{REFERENCE}-{shown}", tuple(entries))


def _drawn(papers: Mapping[str, Recipe], sparsity: float, seed: int) -> Group:
    """The scores of the sweep with calibration windows drawn anew."""
    entries = []
    for method in SWEPT:
        plain = at(papers, method, sparsity)
        entries.append(Entry(f"{plain.name}-draw{seed}", plain.title, plain.recipe, seed=seed))
    shown = percent(sparsity)
    return Group(f"drawn-{shown}-{seed}", f"Draw {seed}, {shown} %", entries[0].name, tuple(entries))
