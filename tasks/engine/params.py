"""Params of steps: frozen dataclasses, and their form as plain JSON in keys, manifests and messages."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from tasks.store.canonical_json import plain


def params_type(function: Any) -> type | None:
    """The dataclass that a step's function takes its params as; None where it takes the mapping itself."""
    kind = function.__annotations__.get("params")
    return kind if isinstance(kind, type) and is_dataclass(kind) else None


def as_json(params: Any) -> dict[str, Any]:
    """Params, or a mapping, as plain JSON. A field whose default is None is left out where it is None.

    Raises:
        InputError: a value is a path, NaN, a date or a mapping whose keys are no text.
    """
    if isinstance(params, Mapping):
        given = dict(params)
    else:
        values = {field.name: (getattr(params, field.name), field.default) for field in fields(params)}
        given = {name: value for name, (value, default) in values.items() if value is not None or default is not None}
    json_: dict[str, Any] = plain(given, "params")
    return json_


def of_json(kind: type | None, params: Mapping[str, Any]) -> Any:
    """The inverse of `as_json`: a new instance of `kind`, or a new mapping where that is None."""
    given = plain(dict(params), "params")
    return kind(**given) if kind else given
