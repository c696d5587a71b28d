"""The section `schedule` of params.yaml: when variants are made by themselves, and what the champion must be worth."""

import re
import zoneinfo
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import pydantic.dataclasses
from pydantic import BeforeValidator, Field, field_validator, model_validator

from pruning_core.errors import InputError
from pruning_core.registry import STRICT, nearest, validated

# What MLflow refuses in a registered model's name or reads as something else: an alias, a quoted text.
NOT_IN_NAMES = "/:@\"'"
Positive = Annotated[float, Field(gt=0)]


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class SizeGate:
    """The highest share of the dense model's bytes, both counted over all tensors.

    stored: of the variant as it is stored, where a zero takes as much as any number.
    bitmask: of the variant with its zeros packed behind a bit mask.
    """

    stored: Positive | None = None
    bitmask: Positive | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> "SizeGate":
        if self.stored is None and self.bitmask is None:
            raise ValueError("says of what the size is a share: stored or bitmask, such as {bitmask: 0.6}")
        return self


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class ChampionGate:
    """At least as good as the present champion, on the same windows.

    margin: by how much the mean loss may be above the champion's, nats per token.
    """

    margin: Annotated[float, Field(ge=0)] = 0.0


def _built(cls: type) -> BeforeValidator:
    # Strict fields take no mapping for a dataclass.
    return BeforeValidator(lambda value: cls(**value) if isinstance(value, Mapping) else value)


def _size(value: Any) -> SizeGate:
    if not isinstance(value, Mapping):
        raise ValueError("must say of what it is a share, such as {bitmask: 0.6} or {stored: 1.0}")
    return SizeGate(**value)


def _champion(value: Any) -> ChampionGate | None:
    if isinstance(value, bool):
        return ChampionGate() if value else None
    if not isinstance(value, Mapping):
        raise ValueError("must be true, false or a margin in nats per token, such as {margin: 0.01}")
    return ChampionGate(**value)


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Gates:
    """What a variant must keep to become the champion; a gate that is left out lets everything pass.

    perplexity: highest ratio to the dense model's.
    size: see SizeGate.
    ledger: highest number of ledger events.
    kl: highest KL divergence from the dense model, nats per token.
    accuracy: how far the mean accuracy on the tasks of `evaluation.tasks` may be below the dense model's, as a share.
    champion: true, or {margin: nats per token}; see ChampionGate.
    """

    perplexity: Positive | None = None
    size: Annotated[SizeGate | None, BeforeValidator(_size)] = None
    ledger: Annotated[int, Field(ge=0)] | None = None
    kl: Annotated[float, Field(ge=0)] | None = None
    accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    champion: Annotated[ChampionGate | None, BeforeValidator(_champion)] = None


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Schedule:
    """When the variants are made, which, and under which name their versions are registered.

    cron: five fields; absent where something else starts the flow.
    timezone: of the cron, a name such as Europe/Paris.
    variants: which; all when absent.
    gates: what the champion must be worth.
    model: name of the registered model; when absent that of the source model.
    push: whether versions go to the DVC remote, where one is configured.
    """

    cron: str | None = None
    timezone: str = "UTC"
    variants: list[str] | None = None
    gates: Annotated[Gates, _built(Gates)] = field(default_factory=Gates)
    model: str | None = None
    push: bool = True

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, value: str | None) -> str | None:
        return value if value is None else check_cron(value)

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, value: str) -> str:
        if value not in zoneinfo.available_timezones():
            near = nearest(value, sorted(zoneinfo.available_timezones()))
            raise ValueError(f"is not a time zone{near}; write UTC or a name such as Europe/Paris")
        return value

    @field_validator("model")
    @classmethod
    def _is_name(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or set(value) & set(NOT_IN_NAMES)):
            raise ValueError(f"is no name for a registered model; leave out {' '.join(NOT_IN_NAMES)}")
        return value


def build_schedule(mapping: Any, known: Collection[str]) -> Schedule:
    """The section as checked values.

    Args:
        known: the names of all variants.

    Raises:
        InputError: the first thing that is wrong, with its place, what is allowed and the nearest known key.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(f"schedule must be a mapping with the keys {', '.join(_fields(Schedule))}, got {mapping!r}")
    gates = mapping.get("gates", {})
    if not isinstance(gates, Mapping):
        raise InputError(f"schedule.gates must be a mapping with the keys {', '.join(_fields(Gates))}, got {gates!r}")
    # From the inside out: each fault is told with its place and the keys that are known there.
    for name, cls in (("size", SizeGate), ("champion", ChampionGate)):
        part = gates.get(name)
        if isinstance(part, Mapping):
            validated(lambda cls=cls, part=part: cls(**part), f"schedule.gates.{name}", _fields(cls))
    validated(lambda: Gates(**gates), "schedule.gates", _fields(Gates))
    schedule = validated(lambda: Schedule(**mapping), "schedule", _fields(Schedule))
    for name in schedule.variants or []:
        if name not in known:
            raise InputError(
                f"schedule.variants: {name!r} is not a variant{nearest(name, list(known))}; "
                f"params.yaml has: {', '.join(known)}"
            )
    chosen = schedule.variants
    if chosen is not None and not 0 < len(chosen) == len(set(chosen)):
        raise InputError("schedule.variants names each variant once, and at least one; remove the key to take all")
    return schedule


def _fields(cls: type) -> list[str]:
    return list(cls.__dataclass_fields__)


MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
RANGE = re.compile(r"(\*|\w+)(?:-(\w+))?(?:/(\d+))?")


@dataclass(frozen=True)
class _Field:
    """What one place may hold; `names` stand for `lowest`, `lowest` + 1, ..."""

    name: str
    lowest: int
    highest: int
    names: tuple[str, ...] = ()

    def check(self, text: str) -> None:
        """Raise ValueError where `text` is not a list of numbers, ranges and steps within the bounds."""
        for part in text.split(","):
            found = RANGE.fullmatch(part)
            if found is None:
                raise ValueError(
                    f"the {self.name} {text!r} is not *, a number, a range such as 1-5 or a step such as */2"
                )
            first, last, step = found.groups()
            if first == "*" and last is not None:
                raise ValueError(f"the {self.name} {text!r} begins a range with *; write a number")
            bounds = [self._number(value) for value in (first, last) if value not in (None, "*")]
            if bounds != sorted(bounds):
                raise ValueError(f"the {self.name} {text!r} is a range that ends before it begins")
            if step is not None and (int(step) == 0 or (first != "*" and last is None)):
                raise ValueError(f"the {self.name} {text!r} has a step of nothing; write for example */5 or 10-50/5")

    def _number(self, text: str) -> int:
        lower = text.lower()
        value = self.names.index(lower) + self.lowest if lower in self.names else int(text) if text.isdecimal() else -1
        if not self.lowest <= value <= self.highest:
            raise ValueError(f"the {self.name} is a number from {self.lowest} to {self.highest}, not {text!r}")
        return value


FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, MONTHS),
    # 0 and 7 are both Sunday.
    _Field("day of the week", 0, 7, DAYS),
)


def check_cron(text: str) -> str:
    """`text`, when it is five fields of `*`, numbers, names of months and days, ranges, lists and steps.

    Raises:
        ValueError: it is not; says which field.
    """
    parts = text.split()
    if len(parts) != len(FIELDS):
        raise ValueError(
            f"has {len(parts)} fields, a cron expression has five: minute, hour, day of the month, month, day of the "
            "week, such as 0 3 * * *"
        )
    for known, part in zip(FIELDS, parts, strict=True):
        known.check(part)
    return text
