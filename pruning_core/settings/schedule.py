"""The section `schedule` of params.yaml: when variants are made by themselves, and what the champion must be worth."""

import re
import zoneinfo
from collections.abc import Collection, Mapping
from dataclasses import field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import pydantic.dataclasses
from cronsim import CronSim, CronSimError
from pydantic import BeforeValidator, Field, field_validator, model_validator

from pruning_core.errors import InputError
from pruning_core.registry import STRICT, nearest, validated

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

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


def build_schedule(mapping: Any, variants: Collection[str]) -> Schedule:
    """The section as checked values.

    Args:
        variants: the names of all variants.

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
            validated(partial(cls, **part), f"schedule.gates.{name}", _fields(cls))
    validated(lambda: Gates(**gates), "schedule.gates", _fields(Gates))
    schedule = validated(lambda: Schedule(**mapping), "schedule", _fields(Schedule))
    for name in schedule.variants or []:
        if name not in variants:
            raise InputError(
                f"schedule.variants: {name!r} is not a variant{nearest(name, list(variants))}; "
                f"params.yaml has: {', '.join(variants)}"
            )
    names = schedule.variants
    if names is not None and not 0 < len(names) == len(set(names)):
        raise InputError("schedule.variants names each variant once, and at least one; remove the key to take all")
    return schedule


def _fields(cls: "type[DataclassInstance]") -> list[str]:
    return list(cls.__dataclass_fields__)


# The names are those in cronsim's errors.
CRON_FIELDS = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, a day that one of the months has",
    "month": "1 to 12 or jan to dec",
    "day-of-week": "0 to 7 or sun to sat",
}
# The last working day of a month and the last Friday as cronsim writes them; Prefect's parser reads other signs.
NOT_IN_PREFECT = re.compile(r"LW|\dL|\bL/", re.IGNORECASE)


def check_cron(text: str) -> str:
    """`text`, when it is a cron expression of five fields that Prefect can run.

    Raises:
        ValueError: it is not; says which field.
    """
    parts = text.split()
    if len(parts) != len(CRON_FIELDS):
        raise ValueError(
            f"has {len(parts)} fields, a cron expression has five: minute, hour, day of the month, month, day of the "
            "week, such as 0 3 * * *"
        )
    if NOT_IN_PREFECT.search(text):
        raise ValueError("has a last weekday, which Prefect does not read; write for example L, as in 0 3 L * *")
    if "#" in text and parts[2] != "*":
        raise ValueError("has a # beside a day of the month, of which Prefect takes one; write * there: 0 3 * * 5#1")
    try:
        # Prefect looks for the day of the month even where a day of the week would do.
        for days in (parts[4], "*"):
            CronSim(" ".join([*parts[:4], days]), datetime(2000, 1, 1))
    except CronSimError as error:
        name = str(error).removeprefix("Bad ")
        raise ValueError(
            f"has a bad {name.replace('-of-', ' of the ')}; write {CRON_FIELDS[name]}, ranges such as 1-5 and steps "
            "such as */2, as in 0 3 * * 1-5"
        ) from None
    return text
