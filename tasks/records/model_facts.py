"""The facts in a model's manifest, with their types checked.

A fact of the wrong type is an error; unknown facts are carried along: a newer manifest stays readable.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from pruning_core.checkpoint.layer_facts import LayerFacts


class Facts(BaseModel):
    """Checked JSON, which `as_json` gives back as it came."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    def as_json(self) -> dict[str, Any]:
        """The JSON it was made of, unknown facts included."""
        return self.model_dump(mode="json", exclude_unset=True)


class Reference(Facts):
    """A stored artifact: where it is and the digest of its content."""

    digest: str
    kind: str = ""
    key: str | None = None
    path: str | None = None


def _layer(entry: Any) -> Any:
    """As JSON or as it is; an InputError of it is one of the whole record."""
    return LayerFacts.of(entry) if isinstance(entry, Mapping) else entry


Layer = Annotated[LayerFacts, BeforeValidator(_layer), PlainSerializer(LayerFacts.facts)]
"""A compressed matrix as a part of a record."""


class Sparsity(Facts):
    """Removed fractions."""

    prunable: float
    whole_model: float | None = None


class Size(Facts):
    """One measure of a model as it is `stored`, and as it would be with a `bitmask` of its zeros."""

    stored: int | float | None = None
    bitmask: int | float | None = None


class AllocationResult(Facts):
    """Target and actual sparsity of an allocation."""

    name: str
    target: float
    sparsity: float

    def __str__(self) -> str:
        return f"{self.name}: {self.sparsity:.4%} removed, {self.target:.4%} asked for"


class SearchStart(Facts):
    """An allocation that a search started from; fitness is KL to dense on its validation windows, nats per token."""

    label: str
    fitness: float


class Generation(Facts):
    """A generation of a search: fitness of the parent on its own text, of it and of the best on validation windows."""

    generation: int
    fitness: float
    validation: float
    best: float
    tokens: int


class SearchResult(Facts):
    """How a search went that found an allocation."""

    initial: tuple[SearchStart, ...] = Field((), strict=False)
    history: tuple[Generation, ...] = Field((), strict=False)


class LossPoint(Facts):
    """A point of a training's loss curve; losses as the training defines them, of a whole model in nats per token."""

    step: int
    train_loss: float | None = None
    validation_loss: float
    learning_rate: float = 0.0


class RecoveryResult(Facts):
    """The effect of recovery: losses in nats per token on validation windows, and the share of the gap to dense."""

    validation_loss: dict[str, float | None]
    recovered_share: float | None = None
    removed: dict[str, int]
    steps: int

    def __str__(self) -> str:
        before, after = (self.validation_loss[name] for name in ("before", "after"))
        share = "" if self.recovered_share is None else f", {self.recovered_share:.1%} of the gap to dense"
        return f"{self.steps} steps, validation loss {before:.4f} to {after:.4f}{share}"


class ModelFacts(Facts):
    """The facts of the model's manifest; `bits_per_weight` in bits, `size_bytes` in bytes."""

    sparsity: Sparsity | None = None
    layers: tuple[Layer, ...] = Field((), strict=False)
    ledger: tuple[dict[str, Any], ...] = Field((), strict=False)
    bits_per_weight: Size | int | float | None = None
    size_bytes: Size | int | float | None = None
    propagate: str | None = None
    allocation: AllocationResult | None = None
    recovery: RecoveryResult | None = None


class Manifest(Facts):
    """The model's manifest; `source` is the digest of the code that made it."""

    source: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    facts: ModelFacts = Field(default_factory=ModelFacts)


def stored_value(size: Size | float | None) -> float | None:
    """The figure of the model as it is stored."""
    return size.stored if isinstance(size, Size) else size


def packed_value(size: Size | float | None) -> float | None:
    """The smaller of the figure as stored and with the zeros behind a bitmask."""
    if isinstance(size, Size):
        return min((figure for figure in (size.stored, size.bitmask) if figure is not None), default=None)
    return size


class Prompt(Facts):
    """The text before; `window` of the evaluation text and how it `follows` there, None of a prompt that was given."""

    window: int | None = None
    text: str
    follows: str | None = None


class Continuation(Facts):
    """What a model wrote: of its tokens the first `shared` are the dense model's, the next one is not.

    `text` in three parts: of the shared tokens, of the first other one ("" where there is none), of the rest.
    """

    tokens: list[int]
    shared: int
    text: tuple[str, str, str] = Field(strict=False)


class Samples(Facts):
    """All continuations of a model; `agreement`: the share of the dense model's tokens before the first difference."""

    digest: str
    prompts: list[Prompt]
    continuations: list[Continuation]
    agreement: float
    protocol: dict[str, Any]


EXPERT = re.compile(r"(?<=\.experts)\.\d+(?=\.)")


def experts_together(layers: Iterable[LayerFacts]) -> tuple[LayerFacts, ...]:
    """The same matrix of all experts of a block as one layer, "....experts.up_proj": a model may have thousands.

    Rows, zeros and losses are added up; what one expert lacks the sum lacks.
    """
    kinds: dict[str, list[LayerFacts]] = {}
    for layer in layers:
        kinds.setdefault(EXPERT.sub("", layer.name), []).append(layer)
    return tuple(_sum(name, members) if len(members) > 1 else members[0] for name, members in kinds.items())


def _sum(name: str, layers: list[LayerFacts]) -> LayerFacts:
    zeros, losses = [layer.zeros for layer in layers], [layer.loss for layer in layers]
    return LayerFacts(
        name=name,
        stored=layers[0].stored,
        rows=sum(layer.rows for layer in layers),
        columns=layers[0].columns,
        removed=sum(layer.removed for layer in layers),
        zeros=None if None in zeros else sum(zeros),
        loss=None if None in losses else sum(losses),
    )
