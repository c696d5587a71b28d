"""What is known of one finished variant, checked once, before a run or a report is written from it.

Facts that a variant may lack (a dense model has no recipe, speed may not have been measured) are None or
empty; a fact of the wrong type is an error. Unknown facts are kept aside: a newer manifest stays readable.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from pruning_core.errors import InputError

BLOCK = re.compile(r"(?:^|\.)(\d+)\.(.+)$")


class _Facts(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", populate_by_name=True)


class Reference(_Facts):
    """A stored artifact: where it is and the digest of its content."""

    digest: str
    kind: str = ""
    key: str | None = None
    path: str | None = None


class Layer(_Facts):
    """One compressed matrix; `loss` is 0.5 tr(D H D^T), None where nothing was solved.

    One that was made smaller has its former size beside the present one; what it lost counts as removed.
    """

    name: str
    rows: int
    columns: int
    dense_rows: int | None = None
    dense_columns: int | None = None
    zeros: int | None = Field(None, validation_alias=AliasChoices("zeros", "removed"))
    loss: float | None = None

    @property
    def size(self) -> int:
        """Weights before anything was removed."""
        return (self.dense_rows or self.rows) * (self.dense_columns or self.columns)

    @property
    def gone(self) -> int | None:
        """Weights that are zero or no longer there, None when the zeros were not counted."""
        return None if self.zeros is None else self.zeros + self.size - self.rows * self.columns

    @property
    def sparsity(self) -> float | None:
        """The removed fraction, None when the zeros were not counted."""
        return None if self.gone is None else self.gone / self.size

    @property
    def place(self) -> tuple[int | None, str]:
        """(3, "self_attn.q_proj") for "model.layers.3.self_attn.q_proj"; (None, name) outside the blocks."""
        found = BLOCK.search(self.name)
        return (int(found[1]), found[2]) if found else (None, self.name)


class Sparsity(_Facts):
    """Removed fractions."""

    prunable: float
    whole_model: float | None = None


class Size(_Facts):
    """One measure of a model as it is `stored`, and as it would be with a `bitmask` of its zeros."""

    stored: float | None = None
    bitmask: float | None = None


class Allocated(_Facts):
    """How much was to go, and how much really goes, where an allocation decided it per matrix."""

    name: str
    target: float
    sparsity: float

    def __str__(self) -> str:
        return f"{self.name}: {self.sparsity:.4%} removed, {self.target:.4%} asked for"


class Start(_Facts):
    """An allocation that a search started from; fitness is KL to dense on its validation windows, nats per token."""

    label: str
    fitness: float


class Generation(_Facts):
    """A generation of a search: fitness of the parent on its own text, of it and of the best on validation windows."""

    generation: int
    fitness: float
    validation: float
    best: float
    tokens: int


class Searched(_Facts):
    """How a search went that found an allocation."""

    initial: tuple[Start, ...] = Field((), strict=False)
    history: tuple[Generation, ...] = Field((), strict=False)


class Point(_Facts):
    """A point of a training's loss curve; losses as the training defines them, of a whole model in nats per token."""

    step: int
    train_loss: float | None = None
    validation_loss: float
    learning_rate: float = 0.0


class Recovered(_Facts):
    """What training gave back: losses in nats per token on validation windows, and the share of the gap to dense."""

    validation_loss: dict[str, float | None]
    recovered_share: float | None = None
    removed: dict[str, int]
    steps: int

    def __str__(self) -> str:
        before, after = (self.validation_loss[name] for name in ("before", "after"))
        share = "" if self.recovered_share is None else f", {self.recovered_share:.1%} of the gap to dense"
        return f"{self.steps} steps, validation loss {before:.4f} to {after:.4f}{share}"


class ModelFacts(_Facts):
    """What the model's manifest says of it; `bits_per_weight` in bits, `size_bytes` in bytes."""

    sparsity: Sparsity | None = None
    layers: tuple[Layer, ...] = Field((), strict=False)
    ledger: tuple[dict[str, Any], ...] = Field((), strict=False)
    bits_per_weight: Size | float | None = None
    size_bytes: Size | float | None = None
    propagate: str | None = None
    allocation: Allocated | None = None
    recovery: Recovered | None = None


class Manifest(_Facts):
    """The model's manifest; `source` is the digest of the code that made it."""

    source: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    facts: ModelFacts = Field(default_factory=ModelFacts)


class Difference(_Facts):
    """Loss above the dense model's, nats per token, with the standard error over paired windows."""

    mean: float
    standard_error: float | None = None


class Metrics(_Facts):
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


class Spread(_Facts):
    """A measured rate: median and quartiles, tokens per second."""

    median: float
    low: float | None = None
    high: float | None = None


class Speed(_Facts):
    """Measured on one machine."""

    prefill_tokens_per_second: Spread | None = None
    decode_tokens_per_second: Spread | None = None


class Dataset(_Facts):
    """A text by name and digest."""

    name: str
    digest: str
    source: dict[str, Any] = Field(default_factory=dict)


class Stage(_Facts):
    """One step of the work: state is "Cached" or "Completed"."""

    name: str
    state: str
    label: str = ""
    seconds: float | None = None


class DvcOutput(_Facts):
    """The output as DVC knows it."""

    md5: str
    path: str


class Variant(_Facts):
    """One variant, compressed and evaluated; the dense model is the variant with an empty recipe."""

    name: str
    model: Reference
    evaluation: Reference
    metrics: Metrics
    recipe: dict[str, Any] = Field(default_factory=dict)
    manifest: Manifest = Field(default_factory=Manifest)
    speed: Speed | None = None
    search: Searched | None = None
    loss_curves: dict[str, list[Point]] = Field(default_factory=dict)
    parents: dict[str, Reference | str | None] = Field(default_factory=dict)
    datasets: dict[str, Dataset | None] = Field(default_factory=dict)
    git_commit: str | None = None
    dvc: DvcOutput | None = None
    steps: tuple[Stage, ...] = Field((), strict=False)

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
        return stored(self.facts.size_bytes)

    @property
    def bits_per_weight(self) -> float | None:
        """Effective bits: with the zeros packed behind a bitmask where that is smaller than storing them."""
        bits = self.facts.bits_per_weight
        if isinstance(bits, Size):
            return min((x for x in (bits.stored, bits.bitmask) if x is not None), default=None)
        return bits

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


def stored(size: Size | float | None) -> float | None:
    """The figure of the model as it is stored."""
    return size.stored if isinstance(size, Size) else size


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
