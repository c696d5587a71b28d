"""Garbage collection by lineage: what nothing names, and nothing that is named was made from, may go.

An artifact is taken away under its lock, by rename, and only if nobody used it since the oldest living process first
used the store: whatever such a process may have found, it has touched.
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
JUDGES = ("measure", "evaluate")
"""Kinds that say something of a model and that nothing is made from."""
DAY = 24 * 60 * 60


@dataclass(frozen=True)
class Item:
    """Something that may go.

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
class Collection:
    """What a collection would do.

    Args:
        goes: what is to be removed.
        kept: why -> the artifacts that stay for this reason (an artifact has one, the most binding).
    """

    goes: list[Item] = field(default_factory=list)
    kept: dict[str, list[Item]] = field(default_factory=dict)


def planned(
    store: Store, roots: Iterable[Root], scratch: set[str], since: list[float], keep_statistics: bool, days: float
) -> Collection:
    """What may go and why the rest stays; nothing is changed.

    Args:
        roots: what names artifacts, the most binding first.
        scratch: names of checkpoints that a variant would go on from.
        since: when the living processes entered, taken before the roots were; see `tasks.store.users`.
        keep_statistics: whether statistics behind a kept artifact stay.
        days: only what was not used for so many days goes.
    """
    manifests = _manifests(store)
    reasons = reachable(manifests, roots, () if keep_statistics else STATISTICS)
    plan, now = Collection(), time.time()

    def sort(item: Item, why: str | None) -> None:
        if why is None and item.place == "objects" and item.used >= since[0]:
            why = "used by a process that is running"
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
        why = why or ("another process is at work" if len(since) > 1 else None)
        sort(Item("scratch", path.name, "", size_of(path), path.stat().st_mtime), why)
    for place, paths in (("altered", sorted((store.root / "altered").glob("*"))), ("tmp", store.builds.abandoned())):
        for path in paths:
            sort(Item(place, path.name, "", size_of(path), path.stat().st_mtime), None)
    return plan


def reachable(manifests: dict[str, dict[str, Any]], roots: Iterable[Root], dropped: tuple[str, ...]) -> dict[str, str]:
    """Key -> why it stays, of everything that the roots name or that this was made from, but for the kinds dropped."""
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
    # They are small, and would have to be measured anew; what they judge brings nothing new to judge.
    for key, manifest in manifests.items():
        judged = manifest.get("inputs", {}).get("model") if manifest.get("kind") in JUDGES else None
        if judged and (judged["kind"] == KIND or judged["key"] in reasons):
            keep(key, reasons.get(judged["key"], "it judges the dense model"))
    return reasons


def remove(store: Store, goes: Iterable[Item], since: list[float]) -> list[Item]:
    """Take these away; returns those that are gone. What came into use meanwhile stays."""
    gone = []
    # Renamed away at once, deleted at leisure: at no instant is there half an artifact.
    with store.builds.begin("garbage") as trash:
        for item in goes:
            take = _take_artifact if item.place == "objects" else _take
            gone += [item] if take(store, item, since[0], trash) else []
    return gone


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _manifests(store: Store) -> dict[str, dict[str, Any]]:
    """Key -> manifest of all that lies in the store; {} of what is damaged, which nothing can be made from."""
    found = {}
    for path in sorted(store.objects.glob("*")):
        try:
            manifest = json.loads((path / MANIFEST).read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            manifest = {}
        complete = isinstance(manifest, dict) and {"kind", "key", "digest", "inputs"} <= manifest.keys()
        found[path.name] = manifest if complete else {}
    return found


def _take_artifact(store: Store, item: Item, before: float, trash: Path) -> bool:
    lock = store.lock(item.name)
    if not lock.acquire(timeout=0):
        return False
    try:
        with store.presence.removing():
            path = store.objects / item.name
            if not path.is_dir() or _time(path / RUN, path) >= before:
                return False
            store.forget(item.name, trash)
            # Prefect's reference to it; a record without its artifact is never served, and takes room.
            (store.root / "prefect" / "records" / item.name).unlink(missing_ok=True)
    finally:
        lock.release()
    return True


def _take(store: Store, item: Item, before: float, trash: Path) -> bool:
    path = store.root / item.place / item.name
    if item.place == "tmp":
        # Those of dead writers went when the trash was begun.
        return not path.exists()
    with store.presence.removing():
        # Who goes on from a checkpoint has found its inputs before, or waits here to find them.
        busy = item.place == "scratch" and len(store.presence.since()) > 1
        if busy or not path.exists() or path.stat().st_mtime > max(before, item.used):
            return False
        path.rename(trash / f"{item.place}-{item.name}")
    return True


def _time(file: Path, folder: Path) -> float:
    return (file if file.is_file() else folder).stat().st_mtime
