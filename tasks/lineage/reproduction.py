"""Compare a reproduced run with the original: what changed since, and whether the digests are equal."""

from typing import Any

from pruning_core.errors import ComputationError
from tasks.engine.code_digest import module_digests
from tasks.engine.step import versions
from tasks.lineage.provenance import EVALUATION, MODEL

GONE = "gone"


def changed_since(then: dict[str, Any], commit_then: str | None, commit_now: str | None) -> dict[str, Any]:
    """What has changed since a lineage was recorded; an empty mapping where nothing is known to differ.

    Returns:
        "git commit", "modules" and "versions", each where it differs: [then, now], or {name: [then, now]}.
    """
    changed: dict[str, Any] = {}
    if commit_then != commit_now:
        changed["git commit"] = [commit_then, commit_now]
    code = {name: _digest_now(name) for name in then["modules"]}
    for what, before, after in (("modules", then["modules"], code), ("versions", then["versions"], versions())):
        if differing := {name: [old, after.get(name)] for name, old in before.items() if old != after.get(name)}:
            changed[what] = differing
    return changed


def _digest_now(module: str) -> str:
    try:
        return module_digests([module])[module]
    except ComputationError:
        return GONE


def compare_lineages(then: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Compare two lineages step by step.

    Returns:
        identical: whether model and evaluation have the digests that they had; first: the first step, in the order of
        the work, with another digest than then, or None; steps: [{"place", "kind", "then", "now"}].
    """
    before = {step["place"]: step["digest"] for step in then["steps"]}
    steps = [
        {"place": step["place"], "kind": step["kind"], "then": before.get(step["place"]), "now": step["digest"]}
        for step in now["steps"]
    ]
    decisive = [step for step in steps if step["place"] in (EVALUATION, MODEL)]
    identical = all(step["then"] == step["now"] for step in decisive)
    # A step that was not there then has nothing to be compared with.
    differing = [step for step in steps if step["then"] not in (None, step["now"])]
    return {"identical": identical, "first": None if identical else differing[0], "steps": steps}
