"""An artifact: a directory of files, a manifest, and a digest of its content."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pruning_core.errors import ComputationError, InputError
from tasks.store.canonical_json import digest_of, plain
from tasks.store.directories import MANIFEST, RUN, digests

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Artifact:
    """An immutable directory with a manifest. `digest` names the content, `key` the computation.

    Args:
        kind: the name of the step that made it.
        hit: True when it was there already.
    """

    kind: str
    key: str
    digest: str
    path: Path
    hit: bool = False

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The parsed manifest.json."""
        return json.loads((self.path / MANIFEST).read_text())

    @property
    def facts(self) -> dict[str, Any]:
        """What the step reported about its result."""
        return self.manifest["facts"]

    def reference(self) -> dict[str, str]:
        """The artifact as JSON, for parameters and results of Prefect tasks."""
        return {"kind": self.kind, "key": self.key, "digest": self.digest, "path": str(self.path)}

    @classmethod
    def from_reference(cls, reference: dict[str, str], hit: bool = False) -> "Artifact":
        """The inverse of `reference`; nothing is read or verified."""
        kind, key, digest = (reference[name] for name in ("kind", "key", "digest"))
        return cls(kind, key, digest, Path(reference["path"]), hit)


def checked_name(name: str) -> str:
    """`name` when it is a plain file name.

    Raises:
        InputError: it could point elsewhere.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name for a stored thing; use letters, digits, '.', '_' and '-'")
    return name


def complete_manifest(build: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """`manifest` as plain JSON with the files below `build`, their sizes, and the digest of the content.

    Raises:
        InputError: the manifest holds what is no JSON.
        ComputationError: `build` holds a link or device.
    """
    written = digests(build)
    sizes = {name: (build / name).stat().st_size for name in written}
    manifest = plain({**manifest, "files": written, "sizes": sizes}, "manifest")
    return {**manifest, "digest": content_digest(manifest)}


def content_digest(manifest: dict[str, Any]) -> str:
    """sha256 over kind, files and facts: equal content has an equal digest, whatever computed it."""
    return digest_of({name: manifest[name] for name in ("kind", "files", "facts")})


def is_consistent(manifest: Any, key: str) -> bool:
    """Whether a manifest is complete, belongs to `key`, and carries the digest of its own content."""
    needed = {"kind", "key", "digest", "files", "facts"}
    if not isinstance(manifest, dict) or not needed <= manifest.keys():
        return False
    return manifest["key"] == key and manifest["digest"] == content_digest(manifest)


def difference(expected: dict[str, str], actual: dict[str, str]) -> str | None:
    """The first way in which two listings (relative path -> digest) differ, as a sentence, or None."""
    for name in sorted(expected.keys() | actual.keys()):
        if name not in actual:
            return f"file {name} is missing"
        if name not in expected:
            return f"file {name} was added"
        if expected[name] != actual[name]:
            return f"file {name} was changed"
    return None


def refuse_reserved_names(build: Path) -> None:
    """Raise ComputationError when a step wrote a file with a name that the store needs."""
    for name in (MANIFEST, RUN):
        if (build / name).exists():
            raise ComputationError(f"the step wrote {name}, a name that the store needs; choose another")
