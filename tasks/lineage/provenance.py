"""The settings of a variant and every step behind it: enough to reproduce it, and to find the first difference."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from pruning_core.settings.recipe import BASELINE, Settings
from tasks.steps.source_model import KIND
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import plain
from tasks.store.directories import MANIFEST
from tasks.store.store import Store

EVALUATION, MODEL, RECOVERED = "evaluation", "model", "recovered"

Entry = Mapping[str, Any]
"""Kind, key and digest of a stored result, as manifests name their inputs."""


@dataclass(frozen=True)
class Link:
    """A stored result that another was computed from.

    Args:
        place: names of inputs, the way to it from where the walk began.
        manifest: {} of the dense model and of what is not stored.
    """

    place: tuple[str, ...]
    kind: str
    key: str
    digest: str
    manifest: Mapping[str, Any]

    @property
    def inputs(self) -> Mapping[str, Entry]:
        """What it was made from, by name."""
        return self.manifest.get("inputs", {})


def walk(entry: Entry, manifest_of: Callable[[Entry], Mapping[str, Any]], seen: set[str]) -> Iterator[Link]:
    """A stored result and everything behind it, each once and after what it read.

    Args:
        manifest_of: the manifest of an entry; {} where the walk shall end.
        seen: keys not to be visited, to which those that are visited are added.
    """
    waiting: list[tuple[Entry, tuple[str, ...], Mapping[str, Any] | None]] = [(entry, (), None)]
    while waiting:
        entry, place, manifest = waiting.pop()
        if manifest is not None:
            yield Link(place, entry["kind"], entry["key"], entry["digest"], manifest)
        elif entry["key"] not in seen:
            seen.add(entry["key"])
            manifest = manifest_of(entry)
            waiting.append((entry, place, manifest))
            inputs = manifest.get("inputs", {})
            waiting += [(inputs[name], (*place, name), None) for name in sorted(inputs, key=_by_number, reverse=True)]


def _by_number(name: str) -> list[Any]:
    """block-2 before block-10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


class Lineage:
    """Everything behind an evaluation, and the role of each result in the evaluated variant."""

    def __init__(self, store: Store, evaluation: Artifact) -> None:
        self._objects = store.objects
        self.links = {link.key: link for link in walk(evaluation.reference(), self._manifest, set())}
        self._evaluation = self.links[evaluation.key]

    def _manifest(self, entry: Entry) -> Mapping[str, Any]:
        file = self._objects / entry["key"] / MANIFEST
        return json.loads(file.read_text()) if entry["kind"] != KIND and file.is_file() else {}

    def _input(self, link: Link, name: str) -> Link | None:
        return self.links[link.inputs[name]["key"]] if name in link.inputs else None

    def artifact(self, link: Link) -> Artifact:
        """What lies in the store of a link, which is not the dense model; nothing is verified."""
        return Artifact(link.kind, link.key, link.digest, self._objects / link.key)

    @property
    def model(self) -> Link:
        """The model that is evaluated."""
        return self.links[self._evaluation.inputs[MODEL]["key"]]

    @cached_property
    def compressed(self) -> Link:
        """The model before any recovery; the dense one where nothing was compressed."""
        before = self._input(self.model, MODEL) if self.model.kind == RECOVERED else None
        return before or self.model

    @property
    def blocks(self) -> dict[str, Link]:
        """ "block-N" -> the block, in order; {} where there are none."""
        names = [name for name in self.compressed.inputs if name.startswith("block-")]
        return {name: self.links[self.compressed.inputs[name]["key"]] for name in sorted(names, key=_by_number)}

    @cached_property
    def making(self) -> dict[str, Link]:
        """What a variant was made from beside the dense model, its blocks and texts, in the order of the work.

        "sensitivity" where one was measured, of a search with the number of the start that it served; "allocation",
        what decided how much of each matrix goes; "importance", the scores of channels and heads; "compressed", the
        model before it was trained back.
        """
        links: dict[str, Link | None] = {}
        if allocation := self._input(self.compressed, "allocation"):
            names = [name for name in allocation.inputs if name.startswith("sensitivity")]
            links = {name: self._input(allocation, name) for name in names} | {"allocation": allocation}
        links["importance"] = self._input(self.compressed, "scores")
        links["compressed"] = None if self.compressed.kind == KIND else self.compressed
        return {role: link for role, link in links.items() if link and link is not self.model}

    def facts(self) -> dict[str, Any]:
        """Every step, each after what it read, as JSON.

        Returns:
            steps [{"place", "kind", "key", "digest"}], a place being the way from the evaluation to it, such as
            "model > block-3"; modules {dotted name: digest} of the code of all of them, and versions of the libraries.
        """
        modules: dict[str, str] = {}
        versions: dict[str, str] = {}
        steps = []
        for link in self.links.values():
            modules.update(link.manifest.get("modules", {}))
            versions.update(link.manifest.get("versions", {}))
            place = " > ".join(link.place) or EVALUATION
            steps.append({"place": place, "kind": link.kind, "key": link.key, "digest": link.digest})
        return {"steps": steps, "modules": dict(sorted(modules.items())), "versions": versions}


def provenance(settings: Settings, name: str, lineage: Lineage) -> dict[str, Any]:
    """{"settings": a params.yaml of this variant alone, "lineage": the steps behind it, see `Lineage.facts`}."""
    return {"settings": settings_of(settings, name), "lineage": lineage.facts()}


def settings_of(settings: Settings, name: str) -> dict[str, Any]:
    """Everything that a variant depends on, as params.yaml has it; of the baseline with all variants of the run."""
    variants = settings.variants if name == BASELINE else {name: settings.recipe(name)}
    sections = {key: asdict(getattr(settings, key)) for key in ("compute", "calibration", "evaluation")}
    mapping = {"model": settings.model, "trust_remote_code": settings.trust_remote_code, **sections}
    mapping |= {"plugins": list(settings.plugins)} if settings.plugins else {}
    return plain(mapping | {"variants": {variant: recipe.spec for variant, recipe in variants.items()}})
