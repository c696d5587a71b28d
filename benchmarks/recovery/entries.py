"""What the section on recovery compares: models that lost much, and the ways to train them back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.quality.entries import Entry, Recipe, at
from benchmarks.recovery.trainings import SMALLER, TEACHABLE, TRAININGS, Scan, rate_of, trained

SEEDS = 3
SPARSE = ("sparse-finetune", "masked-lora", "block-reconstruction")
GRADUAL = ("cubic", "geometric")
BEFORE = "before"


@dataclass(frozen=True)
class Way:
    """One training of a model, or none."""

    training: str = ""
    distilled: bool = False

    @property
    def name(self) -> str:
        """As entries and figures call it."""
        return (self.training or BEFORE) + ("-distilled" if self.distilled else "")

    @property
    def title(self) -> str:
        """As tables call it."""
        if not self.training:
            return "before"
        return TRAININGS[self.training].title + (", distilled" if self.distilled else "")


@dataclass(frozen=True)
class Base:
    """A compressed model and the trainings that it gets."""

    name: str
    title: str
    recipe: Recipe = field(repr=False)
    trainings: tuple[str, ...]

    @property
    def ways(self) -> list[Way]:
        """Before any training, then every training, with and without the dense model's predictions."""
        taught = [Way(one, distilled) for one in self.trainings for distilled in (False, True)]
        return [Way(), *(way for way in taught if not way.distilled or way.training in TEACHABLE)]

    def entries(
        self, seeds: tuple[int, ...], scans: Mapping[str, Scan], changes: Mapping[str, Any]
    ) -> dict[tuple[Way, int], Entry]:
        """(way, seed) -> the variant; the seed draws calibration and training windows.

        Args:
            changes: as `benchmarks.recovery.trainings.trained` takes them.
        """
        return {
            (way, seed): Entry(
                f"{self.name}-{way.name}-{seed}", way.title, self._recipe(way, seed, scans, changes), seed=seed
            )
            for way in self.ways
            for seed in seeds
        }

    def _recipe(self, way: Way, seed: int, scans: Mapping[str, Scan], changes: Mapping[str, Any]) -> Recipe:
        if not way.training:
            return self.recipe
        # A training that prunes in rounds begins with the dense model.
        begun = {} if way.training in GRADUAL else self.recipe
        return trained(begun, way.training, rate_of(way.training, scans), seed, changes, way.distilled)


def bases(papers: Mapping[str, Recipe]) -> list[Base]:
    """All models.

    Args:
        papers: the variants of recipes/papers.yaml.
    """
    dense = {"propagate": "dense"}
    smaller = ("sparse-finetune", "lora", "block-reconstruction")
    return [
        Base("sparsegpt-70", "SparseGPT, 70 %", at(papers, "sparsegpt", 0.7).recipe | dense, SPARSE),
        Base("wanda-70", "Wanda, 70 %", at(papers, "wanda", 0.7).recipe | dense, SPARSE),
        Base("sparsegpt-2of4", "SparseGPT, 2:4", papers["sparsegpt-2of4"] | dense, SPARSE),
        Base("column-50", "Structured, column, 50 % of all parameters, least squares", SMALLER, smaller),
        Base(
            "magnitude-70",
            "Magnitude, 70 %: at once, and in rounds from the dense model",
            at(papers, "magnitude", 0.7).recipe,
            ("sparse-finetune", *GRADUAL),
        ),
    ]
