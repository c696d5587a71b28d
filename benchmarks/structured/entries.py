"""What the section on structured pruning compares: importances of channels and heads, refitting, and training after."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.quality.entries import Entry, Recipe, percent
from benchmarks.recovery.trainings import Scan, rate_of, trained

HYBRID = {
    "fine": "fine estimate alone",
    "coarse": "coarse estimate alone",
    "half": "half and half",
    "prior": "fused by prior",
    "probes": "fused by probes",
    "probes-and-prior": "fused by probes and prior (HyWIA)",
}
ORDERS = {"vectorize": "vectors", "first": "first order", "second": "second order", "mixed": "first and second order"}
GROUPINGS = {"max": "largest", "prod": "product", "last": "last matrix alone"}
IMPORTANCES: dict[str, tuple[str, Recipe]] = {
    "random": ("random", {"name": "random"}),
    "magnitude": ("magnitude", {"name": "magnitude"}),
    "row": ("row", {"name": "row"}),
    "column": ("column", {"name": "column"}),
    "both": ("row and column", {"name": "both"}),
    **{f"taylor-{one}": (f"Taylor, {title}", {"name": "taylor", "order": one}) for one, title in ORDERS.items()},
    **{
        f"taylor-first-{one}": (f"Taylor, first order, {title}", {"name": "taylor", "order": "first", "grouping": one})
        for one, title in GROUPINGS.items()
    },
    "fluctuation": ("fluctuation (FLAP)", {"name": "fluctuation"}),
    **{one: (title, {"name": "hybrid", "fusion": one.replace("-", "_")}) for one, title in HYBRID.items()},
}
"""Importance -> (title, its mapping)."""
PARTS = ("fine", "coarse")
FUSIONS = ("probes-and-prior", "probes", "prior", "half")
PEER = "taylor-first"
"""LLM-Pruner's own: element-wise, first order, summed over the matrices of a group."""
RATIOS = (0.2, 0.5)
FORMS = {
    "bare": "survivors as they are",
    "bias": "mean of what went as a bias",
    "static": "least squares",
    "absorbing": "least squares, absorbing",
}
REFITTED = (PEER, "probes-and-prior")
"""Importances that get every form."""
WITH_BIAS = ("fluctuation",)
MIXED = (PEER, "column", "fluctuation", "fine", "coarse", "probes-and-prior")
"""Importances by which blocks may lose different shares too."""
ADAPTED = tuple(IMPORTANCES)
"""Importances whose models get a LoRA after least squares."""
TUNED = (PEER, "probes-and-prior")
"""Importances whose models are trained as a whole too."""
# With an eighth of the blocks protected at the start and one at the end, half of this model could not go.
GLOBAL = {"mode": "heterogeneous", "scope": "global", "protect_first": 0, "protect_last": 0}
MODES: dict[str, tuple[str, Recipe]] = {
    "uniform": ("equal widths in all blocks", {}),
    "mixed": ("widths by the global order of scores", GLOBAL),
}


@dataclass(frozen=True)
class Way:
    """One way to make the model smaller."""

    importance: str
    ratio: float
    mode: str = "uniform"
    form: str = "bare"
    training: str = ""

    @property
    def name(self) -> str:
        """As entries call it."""
        parts = (self.importance, percent(self.ratio), self.mode, self.form, self.training)
        return "-".join(part for part in parts if part)

    def recipe(self, seed: int, scans: Mapping[str, Scan], changes: Mapping[str, Any]) -> Recipe:
        """As a variant of params.yaml.

        Args:
            scans, changes: as `benchmarks.recovery.trainings.trained` takes them.
        """
        importance = dict(IMPORTANCES[self.importance][1])
        if self.importance == "random":
            importance["seed"] = seed
        structured = {"importance": importance, "ratio": self.ratio, **MODES[self.mode][1]}
        if self.form != "bare":
            structured["reconstruction"] = {"form": self.form}
        recipe = {"structured": structured}
        return trained(recipe, self.training, rate_of(self.training, scans), seed, changes) if self.training else recipe

    def entry(self, seed: int, scans: Mapping[str, Scan], changes: Mapping[str, Any]) -> Entry:
        """The variant of one seed, which draws the calibration windows, the training windows and what is random."""
        return Entry(
            f"{self.name}-{seed}", IMPORTANCES[self.importance][0], self.recipe(seed, scans, changes), seed=seed
        )

    def at(self, **changed: Any) -> "Way":
        """The same with something else."""
        return replace(self, **changed)


def ways(ratios: tuple[float, ...] = RATIOS) -> list[Way]:
    """All of them, those that are compared with each other together."""
    collected = []
    for ratio in ratios:
        collected += [Way(one, ratio, form=form) for one in IMPORTANCES for form in ("bare", "static")]
        collected += [Way(one, ratio, form="bias") for one in (*REFITTED, *WITH_BIAS)]
        collected += [Way(one, ratio, form="absorbing") for one in REFITTED]
        collected += [Way(one, ratio, "mixed", form) for one in MIXED for form in ("bare", "static")]
        collected += [Way(one, ratio, form="static", training="lora") for one in ADAPTED]
        collected += [Way(one, ratio, form="static", training="sparse-finetune") for one in TUNED]
    return collected
