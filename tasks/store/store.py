"""The content-addressed store: every artifact is computed once, whoever asks, and never trusted unverified.

root/objects/<key>/     files, manifest.json, run.json (host, times: outside every digest); never modified
root/signatures/        stat signatures taken at publication: unchanged ones need no second hashing
root/tmp/               artifacts being written, each with a locked .owner file; removed when it is dead
root/altered/           what was found incomplete or changed, moved aside
root/scratch/<name>/    checkpoints of steps under way; they survive a kill
root/locks/             flock files, never unlinked
root/use.lock           another one: shared by whoever uses the store, held alone while garbage is collected
root/events.jsonl       what was found altered, and waits for other processes
"""

import getpass
import hashlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pruning_core.checkpoint.durable_files import file_sha256, flush_one
from pruning_core.errors import ComputationError, InputError
from tasks.progress import current
from tasks.store.artifact import (
    Artifact,
    checked_name,
    complete_manifest,
    difference,
    is_consistent,
    refuse_reserved_names,
)
from tasks.store.canonical_json import write_json
from tasks.store.directories import MANIFEST, RUN, Signatures, digests, flush, replace_directory
from tasks.store.event_log import Events
from tasks.store.locks import FileLock, locked
from tasks.store.temporary_dirs import Builds, explain_full_disk
from tasks.store.use_lock import UseLock

Compute = Callable[[Path], dict[str, Any] | None]


class Store:
    """The artifacts below one folder. Safe to use from many threads, processes and Store objects at once.

    Args:
        root: the folder; made when first written to. Reading from an absent one finds nothing.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self.objects = self.root / "objects"
        self.builds = Builds(self.root / "tmp", gate=self.root / "locks" / "tmp")
        self.use = UseLock(self.root)
        self._signatures = Signatures(self.root / "signatures")
        self.events = Events(self.root / "events.jsonl")

    def find(self, key: str, thorough: bool = False) -> Artifact | None:
        """The verified artifact of `key`; an altered one is moved to altered/, noted, and not found.

        Args:
            thorough: as of `check`.
        """
        if not (self.objects / checked_name(key)).is_dir():
            return None
        artifact, problem = self._check_for_use(key, thorough)
        if problem is None:
            return artifact
        lock = FileLock(self._lock(key))
        if not lock.acquire(timeout=0):
            return None  # The holder of the lock is about to replace it.
        try:
            return self._find_locked(key, thorough)
        finally:
            lock.release()

    def check(self, key: str, thorough: bool = False) -> tuple[Artifact | None, str | None]:
        """(artifact, None) if intact, (None, what is wrong) if not, (None, None) if absent; moves nothing.

        Args:
            thorough: read every byte, also of files that no size, time or inode says were touched.
        """
        path = self.objects / checked_name(key)
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            problem = self._problem(path, manifest, thorough)
        except FileNotFoundError as error:
            return None, f"file {Path(error.filename).name} is missing" if path.is_dir() else None
        except ValueError:
            return None, "manifest.json is not JSON"
        except ComputationError as error:
            return None, str(error)
        if problem:
            return None, problem
        return Artifact(manifest["kind"], key, manifest["digest"], path, hit=True), None

    def get_or_compute(self, kind: str, key: str, provenance: dict[str, Any], compute: Compute) -> Artifact:
        """The artifact of `key`, found or computed; see `compute`."""
        return self.find(key) or self.compute(kind, key, provenance, compute)

    def compute(self, kind: str, key: str, provenance: dict[str, Any], compute: Compute) -> Artifact:
        """Compute the artifact of `key`, which was not found, by compute(directory), which runs at most once.

        Processes and threads that ask for one key at the same time wait for the first and share its result.
        When `compute` raises, nothing is published and the exception goes on.

        Args:
            kind: what it is, the name of its step.
            key: file name made of letters, digits, '.', '_' and '-'; a function of everything that the result
                depends on.
            provenance: JSON for the manifest: params, inputs, source, versions.
            compute: writes plain files below the directory given, and returns facts (JSON) or None.

        Raises:
            InputError: the disk is full.
            ComputationError: compute wrote a link, or a file with a name that the store needs.
        """
        self.use.enter()
        with locked(self._lock(key), on_wait=lambda holder: self._waiting(kind, key, holder)):
            artifact = self._find_locked(key)
            if artifact:
                return artifact
            with explain_full_disk(self.root), self.builds.begin(key) as build:
                begun, clock = datetime.now(UTC), time.monotonic()
                facts = compute(build)
                refuse_reserved_names(build)
                write_json(build / RUN, run_facts(begun, time.monotonic() - clock))
                return self._publish(build, {**provenance, "kind": kind, "key": key, "facts": facts or {}})

    def materialize(self, artifact: Artifact, destination: Path) -> None:
        """Make `destination` a copy of the artifact: its files and manifest.json, new inodes, nothing else.

        Nothing is written when it is one already. Otherwise the copy is made beside it and swapped in: at any
        instant, a kill included, there is the old content or the new.

        Raises:
            InputError: destination is a file or a link, or the disk is full.
            ComputationError: the artifact is gone or altered.
        """
        destination = Path(destination).absolute()
        if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
            raise InputError(f"{destination} is not a folder; move it away, an artifact is to be written there")
        stored = self.find(artifact.key)
        if stored is None:
            raise ComputationError(f"artifact {artifact.path} is gone or was altered; run its step again")
        name = "copy-" + hashlib.sha256(os.fsencode(destination)).hexdigest()
        with locked(self.root / "locks" / name), explain_full_disk(destination.parent):
            if not self._is_copy(stored, destination, name):
                copy_into(stored, destination)
            self._signatures.record(name, destination)

    def artifacts(self) -> Iterator[Artifact]:
        """Every intact artifact, by key."""
        for path in sorted(self.objects.glob("*")):
            artifact, _ = self.check(path.name)
            if artifact:
                yield artifact

    def scratch(self, name: str) -> Path:
        """A folder for checkpoints that stays until `discard_scratch`, kills included."""
        path = self.root / "scratch" / checked_name(name)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def discard_scratch(self, name: str) -> None:
        """Remove the checkpoints of `name`, if there are any."""
        shutil.rmtree(self.root / "scratch" / checked_name(name), ignore_errors=True)

    def forget(self, key: str, trash: Path) -> None:
        """Move an artifact that nobody else uses into the folder `trash`, with what is known of it."""
        (self.objects / checked_name(key)).rename(trash / key)
        self._signatures.forget(key)

    def _lock(self, key: str) -> Path:
        return self.root / "locks" / f"{checked_name(key)}.lock"

    def _waiting(self, kind: str, key: str, holder: str) -> Callable[[], None]:
        self.events.record("waiting", kind=kind, key=key, detail=f"computed by {holder}")
        update = current().start(f"waiting for {kind}, which {holder} computes", 1)
        return lambda: update(1)

    def _check_for_use(self, key: str, thorough: bool = False) -> tuple[Artifact | None, str | None]:
        """As `check`; the artifact counts as used now, and stays for as long as this process lives."""
        self.use.enter()
        run = self.objects / key / RUN
        if run.is_file():
            os.utime(run)
        return self.check(key, thorough)

    def _find_locked(self, key: str, thorough: bool = False) -> Artifact | None:
        artifact, problem = self._check_for_use(key, thorough)
        if problem:
            aside = self.root / "altered" / f"{key}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
            aside.parent.mkdir(parents=True, exist_ok=True)
            (self.objects / key).rename(aside)
            self.events.record("altered", key=key, detail=problem, moved_to=str(aside))
        return artifact

    def _problem(self, path: Path, manifest: Any, thorough: bool) -> str | None:
        """What is wrong with the artifact at `path`, or None; hashed only when it was touched, or `thorough`."""
        if not thorough and self._signatures.is_untouched(path.name, path):
            return None
        recorded = self._signatures.of(path.name)
        if recorded and recorded["manifest"] != file_sha256(path / MANIFEST):
            return "manifest.json was changed"
        if not is_consistent(manifest, path.name):
            return "manifest.json contradicts itself"
        problem = difference(manifest["files"], digests(path))
        if problem is None:
            self._signatures.record(path.name, path)
        return problem

    def _publish(self, build: Path, manifest: dict[str, Any]) -> Artifact:
        """Complete the manifest, make everything durable, and rename the folder to where it is found."""
        manifest = complete_manifest(build, manifest)
        write_json(build / MANIFEST, manifest)
        for name in (*manifest["files"], MANIFEST):
            (build / name).chmod(0o444)
        flush(build)
        # Recorded before it can be found; a signature without its artifact means nothing.
        self._signatures.record(manifest["key"], build)
        self.objects.mkdir(parents=True, exist_ok=True)
        path = self.objects / manifest["key"]
        build.rename(path)
        flush_one(self.objects)
        return Artifact(manifest["kind"], manifest["key"], manifest["digest"], path)

    def _is_copy(self, artifact: Artifact, destination: Path, name: str) -> bool:
        if not (destination / MANIFEST).is_file():
            return False
        if file_sha256(destination / MANIFEST) != file_sha256(artifact.path / MANIFEST):
            return False
        if self._signatures.is_untouched(name, destination):
            return True
        try:
            return digests(destination) == artifact.manifest["files"]
        except ComputationError:
            return False  # A link, which a copy never has.


def copy_into(artifact: Artifact, destination: Path) -> None:
    """Replace `destination` by a copy of the artifact's files and manifest.json."""
    new, old = (destination.with_name(f".{destination.name}.{word}") for word in ("new", "old"))
    for left_by_a_kill in (new, old) if destination.exists() else (new,):
        shutil.rmtree(left_by_a_kill, ignore_errors=True)
    for name in (*artifact.manifest["files"], MANIFEST):
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.path / name, new / name)
    flush(new)
    replace_directory(new, destination)


def run_facts(begun: datetime, seconds: float) -> dict[str, Any]:
    """What differs from run to run and therefore stays outside every digest."""
    return {
        "started": begun.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "host": socket.gethostname(),
        "user": getpass.getuser(),
        "pid": os.getpid(),
    }
