"""The key `structured` of a variant: which channels and heads go, and how the matrices that read them are refitted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pruning_core.errors import InputError
from pruning_core.model.coupled_groups import FAMILIES
from pruning_core.registry import nearest, validated
from pruning_core.structured.importance import IMPORTANCES, Importance
from pruning_core.structured.ranking import Ranking
from pruning_core.structured.reconstruction import Reconstruction

DEFAULT_FAMILIES = ("mlp", "attention")
RANKING = tuple(Ranking.__dataclass_fields__)
KEYS = ("importance", "families", *RANKING, "reconstruction")


@dataclass(frozen=True)
class Structured:
    """Structured pruning as a recipe asks for it."""

    importance: Importance
    families: tuple[str, ...]
    """See `pruning_core.model.coupled_groups.Family`."""
    ranking: Ranking
    reconstruction: Reconstruction | None
    """None: the survivors stay as they are."""
    spec: dict[str, Any] = field(repr=False)
    """The mapping as written."""

    @property
    def ranking_spec(self) -> dict[str, Any]:
        """The part of the mapping that decides which groups go, given their scores."""
        return {key: value for key, value in self.spec.items() if key in RANKING}

    @property
    def reads_tokens(self) -> bool:
        """Whether it looks at calibration text."""
        return "tokens" in self.importance.needs or self.reconstruction is not None


def build_structured(spec: Any, where: str = "structured") -> Structured:
    """Check the mapping.

    Raises:
        InputError: an unknown or missing key, a value out of range, or keys that exclude each other.
    """
    if not isinstance(spec, Mapping):
        raise InputError(f"{where} must be a mapping with the keys {', '.join(KEYS)}, got {spec!r}")
    for key in spec:
        if key not in KEYS:
            raise InputError(
                f"{where}.{key} is not a known key{nearest(key, list(KEYS))}; known keys: {', '.join(KEYS)}"
            )
    if "importance" not in spec:
        raise InputError(f"{where}.importance is missing; names: {', '.join(IMPORTANCES.names())}")
    importance = IMPORTANCES.build(spec["importance"], f"{where}.importance")
    ranking = build_ranking({key: value for key, value in spec.items() if key in RANKING}, where)
    readers = spec.get("reconstruction")
    reconstruction = None if readers is None else build_reconstruction(readers, f"{where}.reconstruction")
    return Structured(importance, _families(spec, where), ranking, reconstruction, dict(spec))


def build_ranking(spec: Mapping[str, Any], where: str = "ranking") -> Ranking:
    """The ranking of a mapping; InputError where it is wrong."""
    return validated(lambda: Ranking(**spec), where, sorted(RANKING))


def build_reconstruction(spec: Any, where: str = "reconstruction") -> Reconstruction:
    """The reconstruction of a mapping; InputError where it is wrong."""
    fields = sorted(Reconstruction.__dataclass_fields__)
    if not isinstance(spec, Mapping):
        raise InputError(f"{where} must be a mapping with the keys {', '.join(fields)}, got {spec!r}")
    return validated(lambda: Reconstruction(**spec), where, fields)


def _families(spec: Mapping[str, Any], where: str) -> tuple[str, ...]:
    families = spec.get("families", list(DEFAULT_FAMILIES))
    valid = isinstance(families, list) and families and all(family in FAMILIES for family in families)
    if not valid or len(set(families)) < len(families) or {"attention", "query"} <= set(families):
        raise InputError(
            f"{where}.families must be a list of {', '.join(FAMILIES)}, each once and not both attention and query, "
            f"got {families!r}"
        )
    return tuple(families)
