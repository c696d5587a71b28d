"""The record of one finished variant: built and checked once in a run, and read by reports and MLflow.

Facts that a variant may lack (a dense model has no recipe, speed may not have been measured) are None or
empty; a fact of the wrong type is an error. Unknown facts are carried along: a newer manifest stays readable.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from pruning_core.errors import InputError
from tasks.records.model_facts import (
    Facts,
    LossPoint,
    Manifest,
    ModelFacts,
    Reference,
    Samples,
    SearchResult,
    Sparsity,
    packed_value,
    stored_value,
)


class Difference(Facts):
    """Loss above the dense model's, nats per token, with the standard error over paired windows."""

    mean: float
    standard_error: float | None = None


class Metrics(Facts):
    """Quality on held-out text; losses and KL in nats per token. `perplexity` None: beyond every float."""

    perplexity: float | None
    mean_loss: float | None = None
    standard_error: float | None = None
    kl_to_dense: float | None = None
    top1_agreement: float | None = None
    difference_to_dense: Difference | None = None
    windows: int | None = None
    tokens: int | None = None
    protocol: dict[str, Any]


class Spread(Facts):
    """A measured rate: median and quartiles, tokens per second."""

    median: float
    low: float | None = None
    high: float | None = None


class Speed(Facts):
    """Measured on one machine."""

    prefill_tokens_per_second: Spread | None = None
    decode_tokens_per_second: Spread | None = None


class Dataset(Facts):
    """A text by name and digest."""

    name: str
    digest: str
    source: dict[str, Any] = Field(default_factory=dict)


class StepRun(Facts):
    """One step of the work: state is "Cached" or "Completed"."""

    name: str
    state: str
    label: str = ""
    seconds: float | None = None


class DvcOutput(Facts):
    """The output as DVC knows it."""

    md5: str
    path: str


class PairedAnswers(Facts):
    """Answers beside the dense model's on the same items: lost and gained ones, their difference, McNemar's p."""

    items: int
    lost: int
    gained: int
    difference: float
    interval: tuple[float, float] = Field(strict=False)
    p_value: float


class LmEvalTaskResult(Facts):
    """Results of a model on one lm-eval task; accuracies are shares of the items, `chance` what guessing gives."""

    items: int
    accuracy: float
    accuracy_error: float | None = None
    accuracy_norm: float | None = None
    accuracy_norm_error: float | None = None
    chance: float | None = None
    truncated: int = 0
    to_dense: dict[str, PairedAnswers | None] = Field(default_factory=dict)


class ExportSize(Facts):
    """An export of a model: bytes of its weights files, and bits per weight of the dense model."""

    label: str
    file_bytes: int
    bits_per_weight: float


class LmEvalResults(Facts):
    """Results of a model on all lm-eval tasks."""

    tasks: dict[str, LmEvalTaskResult]
    mean_accuracy: float
    protocol: dict[str, Any]


class Variant(Facts):
    """One variant, compressed and evaluated; the dense model is the variant with an empty recipe."""

    name: str
    model: Reference
    evaluation: Reference
    metrics: Metrics
    recipe: dict[str, Any] = Field(default_factory=dict)
    manifest: Manifest = Field(default_factory=Manifest)
    speed: Speed | None = None
    search: SearchResult | None = None
    loss_curves: dict[str, list[LossPoint]] = Field(default_factory=dict)
    judged: LmEvalResults | None = None
    samples: Samples | None = None
    exports: tuple[ExportSize, ...] = Field((), strict=False)
    run_id: str | None = None
    parents: dict[str, Reference | str | None] = Field(default_factory=dict)
    datasets: dict[str, Dataset | None] = Field(default_factory=dict)
    git_commit: str | None = None
    dvc: DvcOutput | None = None
    steps: tuple[StepRun, ...] = Field((), strict=False)
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def is_baseline(self) -> bool:
        """Whether this is the dense model."""
        return not self.recipe

    @property
    def facts(self) -> ModelFacts:
        """The facts of the model's manifest."""
        return self.manifest.facts

    @property
    def sparsity(self) -> Sparsity | None:
        """What was removed; of the dense model nothing."""
        if self.facts.sparsity is None and self.is_baseline:
            return Sparsity(prunable=0.0, whole_model=0.0)
        return self.facts.sparsity

    @property
    def protocol_digest(self) -> str | None:
        """Two losses compare only when these are equal."""
        return self.metrics.protocol.get("digest")

    @property
    def size_bytes(self) -> float | None:
        """Bytes of the tensors on disk."""
        return stored_value(self.facts.size_bytes)

    @property
    def packed_bytes(self) -> float | None:
        """Bytes with the zeros packed behind a bitmask where that is smaller than storing them."""
        return packed_value(self.facts.size_bytes)

    @property
    def bits_per_weight(self) -> float | None:
        """Effective bits: with the zeros packed behind a bitmask where that is smaller than storing them."""
        return packed_value(self.facts.bits_per_weight)

    def parent_digests(self) -> dict[str, str]:
        """Kind of parent -> digest of its content."""
        return {
            kind: parent if isinstance(parent, str) else parent.digest
            for kind, parent in self.parents.items()
            if parent is not None
        }

    def window_losses(self) -> list[float] | None:
        """[windows] nats per token from the evaluation artifact, None when its directory is not here.

        Raises:
            InputError: the file is there and holds something else.
        """
        path = Path(self.evaluation.path or "") / "windows.json"
        if not self.evaluation.path or not path.is_file():
            return None
        try:
            return [float(loss) for loss in json.loads(path.read_text())["losses"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error}); remove its folder and evaluate again") from error


def parse(record: Mapping[str, Any]) -> Variant:
    """The record with its types checked.

    Raises:
        InputError: a fact is missing or of the wrong type; names the variant and the fact.
    """
    try:
        return Variant.model_validate(dict(record))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"the record of variant {record.get('name', '?')!r} cannot be used: {where}: {first['msg']}"
        ) from error


def command(variant: Variant) -> str:
    """The one command that brings the variant back, code included where its commit is known."""
    run = f"espalier compress {shlex.quote(variant.name)}"
    return f"git checkout {shlex.quote(variant.git_commit[:12])} && {run}" if variant.git_commit else run
