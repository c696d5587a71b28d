"""What a variant was made with, and every step behind it: enough to make it again, and to see where two part."""

import json
import re
from dataclasses import asdict
from typing import Any

from pruning_core.settings.recipe import BASELINE, Settings
from tasks.pipeline.variant import Pipeline
from tasks.steps.source_model import KIND
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import plain
from tasks.store.directories import MANIFEST
from tasks.store.store import Store

EVALUATION, MODEL = "evaluation", "model"


def provenance(pipeline: Pipeline, name: str) -> dict[str, Any]:
    """{"settings": a params.yaml of this variant alone, "lineage": see `lineage`}."""
    return {
        "settings": settings_of(pipeline.settings, name),
        "lineage": lineage(pipeline.context.store, pipeline.evaluated(name)),
    }


def settings_of(settings: Settings, name: str) -> dict[str, Any]:
    """Everything that a variant depends on, as params.yaml has it; of the baseline with all variants of the run."""
    variants = settings.variants if name == BASELINE else {name: settings.recipe(name)}
    sections = {key: asdict(getattr(settings, key)) for key in ("compute", "calibration", "evaluation")}
    own = {"model": settings.model, "trust_remote_code": settings.trust_remote_code, **sections}
    own |= {"plugins": list(settings.plugins)} if settings.plugins else {}
    return plain(own | {"variants": {variant: recipe.spec for variant, recipe in variants.items()}})


def lineage(store: Store, evaluation: Artifact) -> dict[str, Any]:
    """Every step behind an evaluation, each after what it read.

    Returns:
        steps [{"place", "kind", "key", "digest"}], a place being the way from the evaluation to it, such as
        "model > block-3"; modules {dotted name: digest} of the code of all of them, and versions of the libraries.
    """
    found: dict[str, dict[str, str]] = {}
    modules: dict[str, str] = {}
    versions: dict[str, str] = {}

    def visit(entry: dict[str, str], place: tuple[str, ...]) -> None:
        if entry["key"] in found:
            return
        file = store.objects / entry["key"] / MANIFEST
        if entry["kind"] != KIND and file.is_file():
            manifest = json.loads(file.read_text())
            for name in sorted(manifest["inputs"], key=_by_number):
                visit(manifest["inputs"][name], (*place, name))
            modules.update(manifest["modules"])
            versions.update(manifest["versions"])
        facts = {name: entry[name] for name in ("kind", "key", "digest")}
        found[entry["key"]] = {"place": " > ".join(place) or EVALUATION, **facts}

    visit(evaluation.reference(), ())
    return {"steps": list(found.values()), "modules": dict(sorted(modules.items())), "versions": versions}


def _by_number(name: str) -> list[Any]:
    """block-2 before block-10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
