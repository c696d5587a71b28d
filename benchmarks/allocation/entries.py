"""What the ladder of allocations compares: one pruner, one budget, one draw of text, and who decides where to prune."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.quality.entries import Entry, Recipe, percent

RUNGS: dict[str, tuple[str, Recipe | None]] = {
    "uniform": ("uniform", None),
    "owl": ("OWL", {"name": "owl"}),
    "sensitivity": ("Fisher, clip and shift", {"name": "by_sensitivity", "sensitivity": {"name": "fisher"}}),
    "knapsack-fisher": ("knapsack, Fisher errors", {"name": "knapsack", "errors": "fisher"}),
    "knapsack": ("knapsack, relative output errors", {"name": "knapsack", "errors": "relative_output"}),
    "search": ("evolutionary search", {"name": "evolutionary"}),
}
"""Rung -> (title, allocation)."""
METHODS = {"wanda": ("wanda-50", "Wanda"), "sparsegpt": ("sparsegpt-50", "SparseGPT")}
"""Method -> (recipe of recipes/papers.yaml, title)."""
SPARSITIES = (0.6, 0.7, 0.8)
N_OF_8 = 2
SEEDS = (0, 1, 2)
SCORES = {
    "obs": ({"name": "obs"}, "SparseGPT's score"),
    "isc-paper": ({"name": "isc", "form": "paper"}, "ISC, as in the paper"),
    "isc-code": ({"name": "isc", "form": "code"}, "ISC, as coded"),
    "wanda-squared": ({"name": "wanda_squared"}, "Wanda² in the sweep"),
}
MIXED = {"name": "rank_interval", "sensitivity": {"name": "hutchinson", "sequences": 8}}


@dataclass(frozen=True)
class Ladder:
    """Variants that differ in the allocation alone, for every draw of the calibration text."""

    name: str
    title: str
    rungs: dict[str, str]
    """Rung -> title."""
    entries: dict[tuple[str, int], Entry] = field(repr=False)
    """(rung, seed) -> the variant."""


def ladders(
    papers: Mapping[str, Recipe], seeds: tuple[int, ...] = SEEDS, search: Mapping[str, Any] | None = None
) -> list[Ladder]:
    """All ladders: each method at each sparsity, and at a mean of 2 of 8.

    Args:
        papers: the variants of recipes/papers.yaml.
        search: settings of the evolutionary allocation other than its defaults.
    """
    title, defaults = RUNGS["search"]
    rungs = RUNGS | {"search": (title, defaults | dict(search or {}))}
    collected = []
    for method, (name, title) in METHODS.items():
        for sparsity in SPARSITIES:
            recipe = papers[name] | {"sparsity": sparsity}
            if method == "wanda":
                recipe["pattern"] = {"name": "unstructured", "scope": "row"}
            shown = percent(sparsity)
            collected.append(_ladder(f"{method}-{shown}", f"{title}, {shown} %", recipe, seeds, rungs))
        recipe = {key: value for key, value in papers[name].items() if key != "sparsity"}
        recipe["pattern"] = {"name": "n_of_m", "n": N_OF_8, "m": 8}
        collected.append(_ladder(f"{method}-nof8", f"{title}, N of 8, 75 %", recipe, seeds, rungs))
    return collected


def saliencies(papers: Mapping[str, Recipe], sparsity: float, seeds: tuple[int, ...] = SEEDS) -> list[Ladder]:
    """The scores of the sweep, each under the uniform and under the mixed allocation of arXiv:2310.09499."""
    collected = []
    rungs = {"uniform": ("uniform", None), "mixed": ("mixed by Hutchinson ranks", MIXED)}
    for name, (saliency, title) in SCORES.items():
        recipe = papers["sparsegpt-50"] | {"sparsity": sparsity, "saliency": saliency}
        collected.append(_ladder(f"{name}-{percent(sparsity)}", title, recipe, seeds, rungs))
    return collected


def _ladder(
    name: str,
    title: str,
    recipe: Recipe,
    seeds: tuple[int, ...],
    rungs: Mapping[str, tuple[str, Recipe | None]],
) -> Ladder:
    entries = {}
    for rung, (rung_title, allocation) in rungs.items():
        for seed in seeds:
            variant: dict[str, Any] = dict(recipe) | {"propagate": "dense"}
            if allocation:
                # The seed draws the search's text and its candidates, as it draws the calibration windows.
                variant["allocation"] = allocation | ({"seed": seed} if allocation["name"] == "evolutionary" else {})
            entries[rung, seed] = Entry(f"{name}-{rung}-{seed}", rung_title, variant, seed=seed)
    return Ladder(name, title, {rung: rung_title for rung, (rung_title, _) in rungs.items()}, entries)
