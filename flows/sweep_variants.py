"""The variants of a sweep, from its axes in params.yaml and on the command line."""

from dataclasses import asdict, replace
from typing import Any

import yaml

from pruning_core.errors import InputError
from pruning_core.settings.sweep import Sweep, parse_sweep
from pruning_core.settings.sweep_recipes import expanded
from tasks.workspace.workspace import Workspace

Axes = dict[str, list[Any]]


def expand_sweep(workspace: Workspace, axes: Axes) -> tuple[Workspace, list[tuple[str, str]]]:
    """The workspace with the variants of the sweep instead of its own, and the skipped combinations with the reason.

    Args:
        axes: those of the command line; each takes the place of the one in params.yaml.

    Raises:
        InputError: an axis is wrong, there is none, or no combination can be.
    """
    settings = workspace.settings
    if settings.sweep is None and not axes:
        raise InputError(
            "there is nothing to sweep: give --sparsities, --patterns, --bits or --methods, or a section `sweep` in "
            "params.yaml"
        )
    sweep = parse_sweep({**asdict(settings.sweep or Sweep()), **axes})
    expansion = expanded(sweep, settings.variants, settings.compute.target)
    return replace(workspace, settings=replace(settings, variants=expansion.recipes)), expansion.skipped


def axes_of(
    methods: list[str] | None, sparsities: list[str] | None, patterns: list[str] | None, bits: list[str] | None
) -> Axes:
    """The axes of the command line: each option may be repeated and may hold several values between commas.

    Raises:
        InputError: a value that is no number, or no pattern.
    """
    given = {
        "methods": [value for text in methods or [] for value in _parts(text)],
        "sparsities": [_sparsity(value) for text in sparsities or [] for value in _parts(text)],
        "patterns": [_pattern(value) for text in patterns or [] for value in _parts(text)],
        "bits": [_bits(value) for text in bits or [] for value in _parts(text)],
    }
    return {name: values for name, values in given.items() if values}


def _parts(text: str) -> list[str]:
    """The values between commas; a mapping in braces is one."""
    return [text] if text.lstrip().startswith("{") else [part.strip() for part in text.split(",") if part.strip()]


def _sparsity(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--sparsities {text!r} is not a number; write for example --sparsities 0.5,0.6") from None


def _bits(text: str) -> int | None:
    if text in ("none", "null"):
        return None
    if not text.isdecimal():
        raise InputError(f"--bits {text!r} is not a whole number; write for example --bits none,4")
    return int(text)


def _pattern(text: str) -> dict[str, Any]:
    n, colon, m = text.partition(":")
    if colon and n.isdecimal() and m.isdecimal():
        return {"name": "n_of_m", "n": int(n), "m": int(m)}
    if not text.lstrip().startswith("{"):
        return {"name": text}
    try:
        pattern = yaml.safe_load(text)
    except yaml.YAMLError:
        pattern = None
    if not isinstance(pattern, dict):
        raise InputError(f"--patterns {text!r} is not a pattern; write 2:4, a name, or {{name: ..., ...}}")
    return pattern
