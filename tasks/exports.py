"""What the exports of a variant take, as the store has them; nothing is computed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.artifact import Artifact
from tasks.comparison_run import KIND
from tasks.sources import KIND as SOURCE
from tasks.store import Store
from tasks.tracking import find_runs

EXPORT = "export"


def exports_of(workspace: Path, store: Store, model: Artifact) -> list[dict[str, Any]]:
    """`taken` by each export of a model that was tracked and is stored, by label; of a label the newest."""
    wanted = {KIND: EXPORT, "parent.variant.digest": model.digest}
    facts = {} if model.kind == SOURCE else model.facts
    found: dict[str, dict[str, Any]] = {}
    for run in find_runs(workspace):
        if wanted.items() <= run["tags"].items():
            made, _ = store.check(run["tags"]["export_key"])
            if made:
                told = taken(made.facts, facts)
                found.setdefault(told["label"], told)
    return [found[label] for label in sorted(found)]


def taken(export: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """label, file_bytes, and bits_per_weight of the dense model, as those of variants are.

    Args:
        export: its facts.
        model: the facts of the variant; {} for the dense model.
    """
    weights = model.get("parameters", {}).get("all", export["parameters"])
    size = export["file_bytes"]
    return {"label": export_label(export["format"]), "file_bytes": size, "bits_per_weight": 8 * size / weights}


def export_label(format: Mapping[str, Any]) -> str:
    """For people: the format and its options, in one order however they were given."""
    options = sorted((key, value) for key, value in format.items() if key != "name")
    return " ".join([format["name"], *(f"{key}={value}" for key, value in options)])
