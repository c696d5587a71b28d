"""The section `sweep` of params.yaml: which methods are tried at which sparsities, patterns and bits."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

import pydantic.dataclasses
from pydantic import Field

from pruning_core.errors import InputError
from pruning_core.patterns import PATTERNS
from pruning_core.registry import STRICT, nearest, validated

Fraction = Annotated[float, Field(gt=0, lt=1)]
Bits = Annotated[int, Field(ge=2, le=8)]


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Sweep:
    """Axes; an empty one leaves every method as its variant has it."""

    methods: list[str] = field(default_factory=list)
    """Names of variants, whose recipes are varied; all of them when empty."""
    sparsities: list[Fraction] = field(default_factory=list)
    """Removed fractions, of patterns that take one, and ratios of structured pruning."""
    patterns: list[dict[str, Any]] = field(default_factory=list)
    """Further patterns, {name: ...}; with the name alone a method's own pattern of that name keeps its settings."""
    bits: list[Bits | None] = field(default_factory=list)
    """Of the quantizer; null: none."""


AXES = tuple(Sweep.__dataclass_fields__)


def parse_sweep(mapping: Any, where: str = "sweep") -> Sweep:
    """Check the section.

    Raises:
        InputError: an unknown key, a value out of range, or a pattern that is none.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(f"{where} must be a mapping with the keys {', '.join(AXES)}, got {mapping!r}")
    for key in mapping:
        if key not in AXES:
            raise InputError(
                f"{where}.{key} is not a known key{nearest(str(key), list(AXES))}; known keys: {', '.join(AXES)}"
            )
    sweep = validated(lambda: Sweep(**mapping), where, list(AXES))
    for index, pattern in enumerate(sweep.patterns):
        PATTERNS.build(pattern, f"{where}.patterns[{index}]")
    return sweep
