"""Garbage collection by lineage: a result may go if no root refers to it, directly or through other results.

It is planned and carried out while no other process uses the store.
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.lineage.gc_roots import Root
from tasks.lineage.provenance import Entry, walk
from tasks.steps.source_model import KIND
from tasks.store.directories import MANIFEST, RUN
from tasks.store.store import Store

STATISTICS = ("statistics", "levels")
"""Kinds that are large, and needed again only for a variant that is not made yet."""
EVALUATIONS = ("measure", "evaluate")
"""Kinds that evaluate a model and that nothing is computed from."""
DAY = 24 * 60 * 60


@dataclass(frozen=True)
class Item:
    """A stored result, checkpoint or leftover folder.

    Args:
        place: objects, scratch, tmp or altered.
        name: of its folder or file there.
        kind: of an artifact; "" elsewhere.
        size: bytes.
        used: when it was last used, in seconds since 1970.
    """

    place: str
    name: str
    kind: str
    size: int
    used: float


@dataclass
class GarbagePlan:
    """What a garbage collection removes and keeps.

    Args:
        goes: what is to be removed.
        kept: why -> the artifacts that stay for this reason (an artifact has one, the most binding).
    """

    goes: list[Item] = field(default_factory=list)
    kept: dict[str, list[Item]] = field(default_factory=dict)


def plan_collection(
    store: Store, roots: Iterable[Root], scratch: set[str], keep_statistics: bool, days: float
) -> GarbagePlan:
    """Plan a garbage collection: what may go, and why the rest stays; nothing is changed.

    Args:
        roots: what names artifacts, the most binding first.
        scratch: names of checkpoints that a variant would go on from.
        keep_statistics: whether statistics behind a kept artifact stay.
        days: only what was not used for so many days goes.
    """
    manifests = _manifests(store)
    reasons = reachable(manifests, roots, () if keep_statistics else STATISTICS)
    plan, now = GarbagePlan(), time.time()

    def sort(item: Item, why: str | None) -> None:
        if why is None and now - item.used < days * DAY:
            why = f"used in the last {days:g} days"
        if why is None:
            plan.goes.append(item)
        else:
            plan.kept.setdefault(why, []).append(item)

    for key, manifest in manifests.items():
        path = store.objects / key
        kind = manifest.get("kind", "")
        sort(Item("objects", key, kind, size_of(path), _time(path / RUN, path)), reasons.get(key))
    for path in sorted((store.root / "scratch").glob("*")):
        why = "a variant of params.yaml goes on from it" if path.name.removeprefix("states-") in scratch else None
        sort(Item("scratch", path.name, "", size_of(path), path.stat().st_mtime), why)
    for place, paths in (("altered", sorted((store.root / "altered").glob("*"))), ("tmp", store.builds.abandoned())):
        for path in paths:
            sort(Item(place, path.name, "", size_of(path), path.stat().st_mtime), None)
    return plan


def reachable(manifests: dict[str, dict[str, Any]], roots: Iterable[Root], dropped: tuple[str, ...]) -> dict[str, str]:
    """Key -> why it stays, of everything that can be reached from the roots, except for the kinds `dropped`."""
    reasons: dict[str, str] = {}
    seen: set[str] = set()

    def manifest_of(entry: Entry) -> Mapping[str, Any]:
        return {} if entry["kind"] in (KIND, *dropped) else manifests.get(entry["key"], {})

    def keep(key: str, why: str) -> None:
        if manifest := manifests.get(key):
            links = walk({**manifest, "key": key}, manifest_of, seen)
            reasons.update((link.key, why) for link in links if link.manifest)

    for root in roots:
        for key in root.keys:
            keep(key, root.why)
    # They are small, and would have to be measured anew; the models they evaluate are kept already.
    for key, manifest in manifests.items():
        model = manifest.get("inputs", {}).get("model") if manifest.get("kind") in EVALUATIONS else None
        if model and (model["kind"] == KIND or model["key"] in reasons):
            keep(key, reasons.get(model["key"], "it judges the dense model"))
    return reasons


def remove(store: Store, goes: Iterable[Item]) -> None:
    """Remove these items; to be called while no other process has used the store since they were planned."""
    # Renamed away at once, deleted at leisure: at no instant is there half an artifact, and a kill leaves what the next
    # one removes. What dead writers left in tmp goes as the trash is begun.
    with store.builds.begin("garbage") as trash:
        for item in goes:
            if item.place == "objects":
                store.forget(item.name, trash)
                # Prefect's reference to it; a record without its artifact is never served, and takes room.
                (store.root / "prefect" / "records" / item.name).unlink(missing_ok=True)
            elif item.place != "tmp":
                (store.root / item.place / item.name).rename(trash / f"{item.place}-{item.name}")


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _manifests(store: Store) -> dict[str, dict[str, Any]]:
    """Key -> manifest of all that lies in the store; {} of what is damaged, which nothing can be made from."""
    manifests = {}
    for path in sorted(store.objects.glob("*")):
        try:
            manifest = json.loads((path / MANIFEST).read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            manifest = {}
        complete = isinstance(manifest, dict) and {"kind", "key", "digest", "inputs"} <= manifest.keys()
        manifests[path.name] = manifest if complete else {}
    return manifests


def _time(file: Path, folder: Path) -> float:
    return (file if file.is_file() else folder).stat().st_mtime
