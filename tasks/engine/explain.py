"""Why a step has to be computed: what differs from the most similar result that is stored."""

import json
from collections.abc import Iterator
from typing import Any

from tasks.engine.look import Lookup
from tasks.engine.step import Call
from tasks.store.directories import RUN
from tasks.store.store import Store

Change = dict[str, Any]
ABSENT = "absent"


def explanation(store: Store, lookup: Lookup) -> dict[str, Any]:
    """{"step", "label", "key", "cached", "path", "reason", "nearest", "changes"} of a call that was looked up.

    Returns:
        `reason` is one sentence; `nearest` is the key of the stored artifact of this kind with the fewest
        changes (the newest of equals) or None; each change is {"what": "params" | "input" | "source" |
        "version", "where": path or name, "old": value, "new": value}, with "absent" for what one side lacks.
    """
    call, artifact = lookup.call, lookup.artifact
    result = {
        "label": call.label,
        "step": call.step.name,
        "key": call.key,
        "cached": artifact is not None,
        "path": str(artifact.path) if artifact else None,
    }
    if artifact:
        return {**result, "reason": "the result is stored and intact", "nearest": call.key, "changes": []}
    if lookup.problem:
        reason = f"the stored result was altered: {lookup.problem}"
        return {**result, "reason": reason, "nearest": call.key, "changes": []}
    nearest, differing = _nearest(store, call)
    if nearest is None:
        reason = "no result of this step is stored yet"
    else:
        reason = f"{len(differing)} changed: " + "; ".join(describe(change) for change in differing)
    return {**result, "reason": reason, "nearest": nearest, "changes": differing}


def describe(change: Change) -> str:
    """One change for a person: 'params sparsity: 0.5 -> 0.6'."""
    if change["what"] == "source":
        verb = {change["old"]: "newly used", change["new"]: "no longer used"}.get(ABSENT, "edited")
        return f"source {change['where']}: {verb}"
    old, new = (_short(change[side]) for side in ("old", "new"))
    return f"{change['what']} {change['where']}: {old} -> {new}"


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Every difference between two sets of ingredients (a manifest is one)."""
    groups = [
        ("params", flat(old["params"]), flat(new["params"])),
        ("input", _contents(old["inputs"]), _contents(new["inputs"])),
        ("source", old["modules"], new["modules"]),
        ("version", old["versions"], new["versions"]),
    ]
    return [change for what, before, after in groups for change in _differing(what, before, after)]


def flat(value: Any, where: str = "") -> dict[str, Any]:
    """{"a.b[0]": leaf} for every leaf of nested JSON; an empty list or mapping is a leaf."""
    if isinstance(value, dict) and value:
        parts = [(f"{where}.{key}" if where else key, item) for key, item in value.items()]
    elif isinstance(value, list) and value:
        parts = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {where: value} if where else {}
    return {place: leaf for name, item in parts for place, leaf in flat(item, name).items()}


def _differing(what: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    for where in sorted(old.keys() | new.keys()):
        before, after = old.get(where, ABSENT), new.get(where, ABSENT)
        if before != after:
            yield {"what": what, "where": where, "old": before, "new": after}


def _contents(inputs: dict[str, dict[str, str] | None]) -> dict[str, str]:
    return {name: facts["digest"] if facts else "not computed yet" for name, facts in inputs.items()}


def _nearest(store: Store, call: Call) -> tuple[str | None, list[Change]]:
    candidates = []
    for artifact in store.artifacts():
        if artifact.kind == call.step.name:
            started = json.loads((artifact.path / RUN).read_text())["started"]
            candidates.append((changes(artifact.manifest, call.ingredients), started, artifact.key))
    if not candidates:
        return None, []
    candidates.sort(key=lambda one: one[1:], reverse=True)
    differing, _, key = min(candidates, key=lambda one: _distance(one[0]))
    return key, differing


def _distance(differing: list[Change]) -> tuple[bool, int]:
    """Another block of the same variant differs in little, but says nothing of why this one has to be computed."""
    return any(change["where"] == "block" for change in differing), len(differing)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12] if len(text) == 64 else text
