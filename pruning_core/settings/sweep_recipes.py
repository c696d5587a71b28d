"""A sweep as recipes: every method at every sparsity, pattern and number of bits that it can have."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from pruning_core.errors import InputError
from pruning_core.patterns import PATTERNS
from pruning_core.registry import nearest
from pruning_core.settings.recipe import Recipe, parse_recipe
from pruning_core.settings.sweep import Sweep

Spec = dict[str, Any]
OWN: Any = object()
"""What stands for the value that a method's recipe has itself."""
SETTINGS_IN_NAMES = re.compile(r"(-(\d+(_\d+)?|\d+of\d+|int\d+))+$")


@dataclass(frozen=True)
class Expansion:
    """The recipes of a sweep, and what is left out of it."""

    recipes: dict[str, Recipe] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(method or combination, why it is left out)."""


@dataclass(frozen=True)
class Point:
    """One combination; OWN is what the method's recipe has."""

    pattern: Any = OWN
    sparsity: Any = OWN
    bits: Any = OWN


def expanded(sweep: Sweep, variants: Mapping[str, Recipe], device: str = "cpu") -> Expansion:
    """The recipes of a sweep over `variants`, equal ones once; a recipe that is a variant has the variant's name.

    Raises:
        InputError: an unknown method, or not one combination that can be.
    """
    expansion = Expansion()
    for method in dict.fromkeys(sweep.methods or variants):
        if method not in variants:
            raise InputError(
                f"sweep.methods: {method!r} is not a variant{nearest(method, list(variants))}; "
                f"params.yaml has: {', '.join(variants)}"
            )
        base = variants[method]
        points, notes = _points(base, sweep)
        expansion.skipped.extend((method, note) for note in notes)
        for point in points:
            try:
                spec = _applied(base.spec, point)
                name = _name(method, spec, variants, expansion.recipes)
                recipe = parse_recipe(name, spec, device)
            except InputError as error:
                expansion.skipped.append((_label(method, point), _reason(error)))
                continue
            expansion.recipes.setdefault(recipe.name, recipe)
    if not expansion.recipes:
        reasons = "; ".join(f"{what}: {why}" for what, why in expansion.skipped)
        raise InputError(f"the sweep has no combination that can be: {reasons}")
    return expansion


def _points(base: Recipe, sweep: Sweep) -> tuple[list[Point], list[str]]:
    """The combinations for one method, and which axes do not apply to it."""
    notes = []
    holder = _holder(base.spec)
    if holder is None:
        amounts = [(OWN, sparsity) for sparsity in sweep.sparsities or [OWN]] if base.structured else [(OWN, OWN)]
        reason = "it removes whole channels and heads" if base.structured else "it removes nothing by a pattern"
        notes += [f"patterns do not apply: {reason}"] if sweep.patterns else []
        notes += [f"sparsities do not apply: {reason}"] if sweep.sparsities and not base.structured else []
    else:
        amounts = list(dict.fromkeys(_amounts(holder, sweep)))
        if sweep.sparsities and all(sparsity is OWN for _, sparsity in amounts):
            notes.append("sparsities do not apply: its pattern fixes how much goes")
        amounts = [(_unfrozen(pattern), sparsity) for pattern, sparsity in amounts]
    bits = sweep.bits or [OWN]
    if base.method is None and sweep.bits:
        notes += ["bits do not apply: no matrix of it is quantized"] if any(sweep.bits) else []
        bits = [OWN]
    return [Point(pattern, sparsity, width) for (pattern, sparsity), width in product(amounts, bits)], notes


def _amounts(holder: Spec, sweep: Sweep) -> Iterator[tuple[Any, Any]]:
    """(pattern, sparsity), patterns as hashable items: the base recipe's too where sparsities apply to it."""
    base = holder.get("pattern", {"name": "unstructured"})
    patterns: list[Any] = [base if pattern == {"name": base["name"]} else pattern for pattern in sweep.patterns]
    if not patterns or (sweep.sparsities and _takes_sparsity(base)):
        patterns.insert(0, base)
    for pattern in patterns:
        key = OWN if pattern == base else tuple(pattern.items())
        for sparsity in (sweep.sparsities or [OWN]) if _takes_sparsity(pattern) else [OWN]:
            yield key, sparsity


def _unfrozen(pattern: Any) -> Any:
    return pattern if pattern is OWN else dict(pattern)


def _takes_sparsity(pattern: Spec) -> bool:
    return PATTERNS.build(pattern).takes_sparsity


def _holder(spec: Spec) -> Spec | None:
    """The mapping that has the pattern and the sparsity: the recipe, or a recovery that prunes; None without one."""
    if "pattern" in spec:
        return spec
    recovery = spec.get("recovery", {})
    return recovery if recovery.get("name") == "iterative_magnitude" and "structured" not in spec else None


def _applied(spec: Spec, point: Point) -> Spec:
    """`spec` with the settings of a point."""
    new = dict(spec)
    if "structured" in spec and point.sparsity is not OWN:
        new["structured"] = {**spec["structured"], "ratio": point.sparsity}
    holder = _holder(spec)
    if holder is not None:
        changed = _with_amount(dict(holder), point)
        new = changed if holder is spec else {**spec, "recovery": changed}
    if point.bits is None:
        new.pop("quantizer", None)
    elif point.bits is not OWN:
        new["quantizer"] = {**spec.get("quantizer", {"name": "affine"}), "bits": point.bits}
    return new


def _with_amount(holder: Spec, point: Point) -> Spec:
    if point.pattern is not OWN:
        holder["pattern"] = point.pattern
        if not _takes_sparsity(point.pattern):
            holder.pop("sparsity", None)
    if point.sparsity is not OWN:
        holder["sparsity"] = point.sparsity
    return holder


def _name(method: str, spec: Spec, variants: Mapping[str, Recipe], recipes: Mapping[str, Recipe]) -> str:
    """The variant's name where the recipe is one, otherwise method and settings; one name never has two recipes."""
    taken = {**variants, **recipes}
    for name, recipe in taken.items():
        if recipe.spec == spec:
            return name
    settings = "-".join(_settings(spec, variants[method].spec))
    stem = SETTINGS_IN_NAMES.sub("", method)
    for start in (stem, method):
        name = f"{start}-{settings}" if settings else start
        if name not in taken:
            return name
    return next(f"{name}-v{number}" for number in range(2, len(taken) + 3) if f"{name}-v{number}" not in taken)


def _settings(spec: Spec, base: Spec) -> Iterator[str]:
    """What a name says of a recipe, in its order."""
    holder, base_pattern = _holder(spec) or {}, (_holder(base) or {}).get("pattern")
    amount = spec["structured"]["ratio"] if "structured" in spec else holder.get("sparsity")
    if amount is not None:
        yield f"{100 * amount:g}".replace(".", "_")
    pattern = holder.get("pattern", {})
    if pattern.get("name") == "n_of_m":
        yield f"{pattern['n']}of{pattern['m']}"
    elif pattern and pattern != base_pattern:
        yield re.sub(r"[^a-z0-9]+", "_", "_".join(str(value).lower() for value in pattern.values()))
    if "quantizer" in spec:
        yield f"int{spec['quantizer'].get('bits', 4)}"


def _label(method: str, point: Point) -> str:
    """A combination in words, for messages."""
    parts = []
    if point.pattern is not OWN:
        parts.append("pattern " + ", ".join(str(value) for value in point.pattern.values()))
    if point.sparsity is not OWN:
        parts.append(f"sparsity {point.sparsity:g}")
    if point.bits is not OWN:
        parts.append("no quantizer" if point.bits is None else f"{point.bits} bits")
    return " with ".join([method, ", ".join(parts)]) if parts else method


def _reason(error: InputError) -> str:
    """The message without its place, which names a variant that nobody wrote."""
    return re.sub(r"^variants\.[a-z0-9_-]+[.:]? ?", "", str(error))
