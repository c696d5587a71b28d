"""The figures of the results page: every entry made, judged on the same windows, and compared in its group."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from benchmarks.quality.entries import Entry, Group
from pruning_core.evaluation.paired import PairedDifference, paired_difference
from pruning_core.evaluation.size import model_size
from pruning_core.settings.recipe import BASELINE, Settings
from tasks.engine.step import Context, direct
from tasks.engine.step_log import StepLog
from tasks.pipeline.variant import Pipeline
from tasks.steps.evaluate import EvaluateParams, evaluate, losses_of
from tasks.store.artifact import Artifact
from tasks.workspace.workspace import Workspace

CERTAIN = 2.0
"""A difference of so many standard errors counts as one."""


@dataclass(frozen=True, eq=False)
class Figures:
    """What is known of one entry."""

    entry: Entry
    losses: Tensor = field(repr=False)
    """[windows] float64, nats per token."""
    perplexity: float | None
    kl: float | None
    """To the dense model, nats per token; None where the bench does not measure it."""
    top1: float | None
    zeros: float
    """Share of the prunable weights that are zero, counted in the model."""
    bits: float
    """Per weight of the whole model, with the zeros behind a bit mask where that is smaller."""
    events: dict[str, int]
    """The ledger: event -> how many matrices."""

    def above(self, other: "Figures") -> PairedDifference:
        """This mean loss minus the other's, over the same windows."""
        return paired_difference(self.losses, other.losses)


def certain(difference: PairedDifference) -> bool:
    """Whether a difference is larger than what the windows leave open."""
    return difference.standard_error is not None and abs(difference.mean) > CERTAIN * difference.standard_error


class Bench:
    """Makes and judges entries with the steps of the pipeline, so that what is stored is found again.

    Args:
        root: the folder of params.yaml.
        overrides: on top of it.
        entries: all that will be asked for.
        make: makes the pipelines.
        divergence: whether the predictions are compared with the dense model's, which doubles the time of judging.
    """

    def __init__(
        self,
        root: Path,
        overrides: list[str],
        entries: Iterable[Entry],
        make: Callable[[Context, Settings], Pipeline] = Pipeline,
        divergence: bool = True,
    ) -> None:
        self.root = root
        self.make = make
        self.divergence = divergence
        self.overrides = overrides
        self.entries = {entry.name: entry for entry in entries}
        plain = Workspace.open(root, overrides).context()
        self.context = replace(plain, driver=StepLog(direct))
        self._made = cache(self._pipeline)

    @property
    def home(self) -> Pipeline:
        """The pipeline of the settings as they are, which judges everything."""
        return self._made(None, None, ())

    def pipeline(self, entry: Entry) -> Pipeline:
        """The one that makes an entry."""
        return self._made(entry.seed, entry.base, entry.overrides)

    def model(self, entry: Entry) -> Artifact:
        """The entry's compressed model."""
        return self.pipeline(entry).model(entry.name)

    def evaluated(self, entry: Entry) -> Artifact:
        """Its quality, beside the dense model whatever it was made from."""
        home = self.home
        params = EvaluateParams(batch=home.settings.evaluation.batch, trust_remote_code=home.trust)
        inputs = {"model": self.model(entry), "tokens": home.evaluation}
        if self.divergence:
            inputs |= {"source": home.source, "baseline": home.quality(BASELINE)}
        return self.context.run(evaluate, params, inputs, f"{entry.name} evaluation")

    def figures(self, entry: Entry) -> Figures:
        """All that the page says of the entry."""
        quality, model = self.evaluated(entry), self.model(entry)
        facts, metrics = model.facts, quality.facts
        ledger = list(facts["ledger"])
        if entry.base:
            ledger += self.model(self.entries[entry.base]).facts["ledger"]
        return Figures(
            entry,
            losses_of(quality),
            metrics["perplexity"],
            metrics["kl_to_dense"] if self.divergence else None,
            metrics["top1_agreement"] if self.divergence else None,
            sum(layer["zeros"] for layer in facts["layers"]) / facts["parameters"]["prunable"],
            min(facts["bits_per_weight"].values()),
            dict(sorted(Counter(event["event"] for event in ledger).items())),
        )

    def dense(self) -> Figures:
        """The dense model, beside itself."""
        quality = self.home.quality(BASELINE)
        nothing = Entry(BASELINE, "dense", {})
        return Figures(nothing, losses_of(quality), quality.facts["perplexity"], 0.0, 1.0, 0.0, self._dense_bits(), {})

    def settings(self) -> dict[str, Any]:
        """What the figures hold for, with digests."""
        home = self.home
        evaluation = home.quality(BASELINE)
        calibration = home.settings.calibration
        return {
            "sequences": calibration.sequences,
            "length": calibration.length,
            "seed": calibration.seed,
            "model": home.settings.model,
            "model_digest": home.source.digest,
            "calibration": _text(home.calibration) | {"sampling": calibration.sampling},
            "evaluation": evaluation.facts["protocol"] | {"source": home.evaluation.facts["source"]},
            "predictions": evaluation.facts["tokens"],
            "versions": evaluation.manifest["versions"],
        }

    def _pipeline(self, seed: int | None, base: str | None, overrides: tuple[str, ...]) -> Pipeline:
        recipes = {entry.name: entry.recipe for entry in self.entries.values()}
        given = [*self.overrides, f"variants={yaml.safe_dump(recipes, default_flow_style=True, width=10**9)}"]
        if seed is not None:
            given.append(f"calibration.seed={seed}")
        if base is not None:
            given.append(f"model={self.model(self.entries[base]).path}")
        return self.make(self.context, Workspace.open(self.root, [*given, *overrides]).settings)

    def _dense_bits(self) -> float:
        """Per weight of the dense model as it is stored."""
        return model_size(self.home.source.path)["bits_per_weight"]


def _text(tokens: Artifact) -> dict[str, Any]:
    facts = tokens.facts
    return {name: facts[name] for name in ("source", "text_digest", "token_digest")}


@dataclass(frozen=True)
class Results:
    """Everything that the page is written from."""

    dense: Figures
    groups: list[Group]
    figures: dict[str, Figures] = field(repr=False)
    """Entry name -> its figures."""
    settings: dict[str, Any] = field(repr=False)

    def of(self, group: Group) -> list[Figures]:
        """The figures of a group in its order, under its titles."""
        return [replace(self.figures[entry.name], entry=entry) for entry in group.entries]

    def best(self, group: Group) -> Figures:
        """The lowest mean loss of a group, among those that compete."""
        competing = [figures for figures in self.of(group) if figures.entry.name not in group.beside]
        return min(competing, key=lambda figures: float(figures.losses.mean()))


def measured(bench: Bench, groups: list[Group], say: Callable[[str], None]) -> Results:
    """Make and judge every entry once, telling each."""
    dense = bench.dense()
    say(f"{'dense':36} {dense.perplexity:10.4g}")
    figures: dict[str, Figures] = {}
    for entry in (entry for group in groups for entry in group.entries):
        if entry.name not in figures:
            result = figures[entry.name] = bench.figures(entry)
            shown = "overflow" if result.perplexity is None else f"{result.perplexity:10.4g}"
            say(f"{entry.name:36} {shown}")
    return Results(dense, groups, figures, bench.settings())
