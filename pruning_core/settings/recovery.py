"""The key `recovery` of a variant: how a compressed model is trained to recover its quality, and on which text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pydantic.dataclasses
from pydantic import Field

from pruning_core.errors import InputError
from pruning_core.recovery import RECOVERIES, Recovery
from pruning_core.recovery.training.text_overlap import Rule
from pruning_core.registry import STRICT, validated
from pruning_core.text import TEXTS

BESIDE_THE_METHOD = ("data", "checkpoint_every")


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class RecoveryData:
    """The text that a recovery learns from."""

    text: dict[str, Any] | None = None
    """A text source, {name: ...}; that of `calibration` when absent."""
    sequences: Annotated[int, Field(ge=1)] = 1024
    """Training windows."""
    validation: Annotated[int, Field(ge=1)] = 32
    """Further windows of the same text that are not trained on: the loss curve's."""
    length: Annotated[int, Field(ge=2)] | None = None
    """Tokens per window; that of `calibration` when absent."""
    sampling: Literal["first", "spread", "documents"] = "spread"
    seed: int = 0
    """For sampling `documents`."""
    overlap: Rule = "refuse"
    """Windows that share text with the evaluation stop the run, or are left out where they are few (`drop`)."""


@dataclass(frozen=True)
class Recovering:
    """A recovery as a recipe asks for it."""

    method: Recovery
    data: RecoveryData
    spec: dict[str, Any] = field(repr=False)
    """The mapping of the method, without the keys beside it."""
    checkpoint_every: int = 50
    """Steps between two checkpoints; changes no result."""


def build_recovery(spec: Any, where: str = "recovery") -> Recovering:
    """Check the mapping.

    Raises:
        InputError: an unknown or missing key, or a value out of range.
    """
    if not isinstance(spec, Mapping):
        raise InputError(f"{where} must be a mapping {{name: ...}}, got {spec!r}")
    method_spec = {key: value for key, value in spec.items() if key not in BESIDE_THE_METHOD}
    method = RECOVERIES.build(method_spec, where)
    data = spec.get("data", {})
    fields = sorted(RecoveryData.__dataclass_fields__)
    if not isinstance(data, Mapping):
        raise InputError(f"{where}.data must be a mapping with the keys {', '.join(fields)}, got {data!r}")
    recovery_data = validated(lambda: RecoveryData(**data), f"{where}.data", fields)
    if recovery_data.text is not None:
        TEXTS.build(recovery_data.text, f"{where}.data.text")
    every = spec.get("checkpoint_every", 50)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise InputError(f"{where}.checkpoint_every must be a whole number of steps, 1 or more, got {every!r}")
    return Recovering(method, recovery_data, method_spec, every)
