"""How compressed models are trained for the results page: methods, one budget for all, and whose learning rate wins."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.quality.entries import Entry, Recipe, at
from benchmarks.quality.figures import Bench

BUDGET = {"steps": 128, "batch": 4, "warmup": 0.1, "validate_every": 32}
DATA = {"sequences": 544, "validation": 32, "overlap": "drop"}
"""As many windows as the steps take, so that each is seen once, and 32 to watch the training on."""
DISTILLED = {"distillation": 1.0}
SCANNED = 0
"""The seed whose trainings choose the learning rates."""
SMALLER = {"structured": {"importance": {"name": "column"}, "ratio": 0.5, "reconstruction": {"form": "static"}}}
GRADUAL = {"name": "iterative_magnitude", "sparsity": 0.7, "rounds": 6}


@dataclass(frozen=True)
class Training:
    """One way to train."""

    title: str
    spec: Recipe = field(repr=False)
    """The key `recovery` without budget, data and learning rate."""
    rates: tuple[float, ...]
    """Learning rates to choose from; () where it takes that of `rate_of`."""
    rate_of: str = ""


# Twelve halves of blocks, one after the other: half the steps of each take as long as the other trainings do.
HALVES = {"name": "block_reconstruction", "steps": 64, "validate_every": 64, "data": {"sequences": 288}}
TRAININGS = {
    "sparse-finetune": Training("fine-tuning under the mask", {"name": "sparse_finetune"}, (5e-4, 1e-3, 2e-3, 4e-3)),
    "masked-lora": Training("masked LoRA", {"name": "masked_lora"}, (1e-3, 3e-3, 1e-2, 3e-2)),
    "block-reconstruction": Training("block reconstruction", HALVES, (3e-4, 1e-3, 3e-3, 1e-2)),
    # 1e-4 is LLM-Pruner's.
    "lora": Training("LoRA", {"name": "lora"}, (1e-4, 3e-3, 1e-2, 3e-2)),
    "cubic": Training("pruned in rounds, cubic", GRADUAL | {"path": "cubic"}, (), "sparse-finetune"),
    "geometric": Training("pruned in rounds, geometric", GRADUAL | {"path": "geometric"}, (), "sparse-finetune"),
}
TEACHABLE = ("sparse-finetune", "masked-lora", "lora")
"""Trainings that can learn from the dense model's predictions too; block reconstruction learns from nothing else."""


@dataclass(frozen=True)
class Scan:
    """The learning rates of one training, and the validation loss that each ends with."""

    base: str
    """What is trained, for people."""
    losses: dict[float, float]
    """Rate -> nats per token."""

    @property
    def rate(self) -> float:
        """That with the lowest validation loss."""
        return min(self.losses, key=self.losses.get)

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        tried = [{"rate": rate, "validation_loss": loss} for rate, loss in self.losses.items()]
        return {"base": self.base, "tried": tried, "rate": self.rate}


def trained(
    recipe: Recipe, name: str, rate: float, seed: int, changes: Mapping[str, Any], distilled: bool = False
) -> Recipe:
    """A recipe with a training behind it.

    Args:
        recipe: {} for the dense model, which a training in rounds prunes itself.
        changes: keys of `recovery` other than `BUDGET` and `DATA`.
    """
    settings = TRAININGS[name].spec
    data = DATA | settings.get("data", {}) | changes.get("data", {}) | {"seed": seed}
    spec = BUDGET | settings | (DISTILLED if distilled else {}) | dict(changes)
    return recipe | {"recovery": spec | {"learning_rate": rate, "seed": seed, "data": data}}


def base_of(name: str, papers: Mapping[str, Recipe]) -> tuple[str, Recipe]:
    """What a training's learning rate is chosen on: a title and the recipe of the model before training."""
    if name == "lora":
        return "structured, column, 50 %, least squares", SMALLER
    return "SparseGPT, 70 %", at(papers, "sparsegpt", 0.7).recipe | {"propagate": "dense"}


def scans(
    root: Path,
    overrides: list[str],
    papers: Mapping[str, Recipe],
    names: tuple[str, ...],
    changes: Mapping[str, Any],
    say: Callable[[str], None],
) -> dict[str, Scan]:
    """Training -> its scan. No evaluation text takes part: what is compared is the loss on validation windows.

    Args:
        names: of `TRAININGS`; those that take another's rate add that one.
        changes: as `trained` takes them.
    """
    scanned = [name for name in TRAININGS if name in {TRAININGS[one].rate_of or one for one in names}]
    entries = {
        (name, rate): Entry(
            f"scan-{name}-{number}",
            name,
            trained(base_of(name, papers)[1], name, rate, SCANNED, changes),
            seed=SCANNED,
        )
        for name in scanned
        for number, rate in enumerate(TRAININGS[name].rates)
    }
    bench, losses_of = Bench(root, overrides, entries.values(), divergence=False), {}
    for (name, rate), entry in entries.items():
        loss = bench.model(entry).facts["recovery"]["validation_loss"]["after"]
        losses_of.setdefault(name, {})[rate] = loss
        say(f"{name:28} rate {rate:<8g} validation loss {loss:.4f}")
    return {name: Scan(base_of(name, papers)[0], losses) for name, losses in losses_of.items()}


def rate_of(name: str, scans_by_name: Mapping[str, Scan]) -> float:
    """The learning rate of a training."""
    return scans_by_name[TRAININGS[name].rate_of or name].rate
