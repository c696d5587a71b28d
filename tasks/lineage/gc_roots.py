"""The roots of garbage collection, which keep artifacts and everything behind them: DVC, artifacts/, MLflow."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning_core.errors import InputError
from tasks.store.artifact import is_consistent
from tasks.store.directories import MANIFEST
from tasks.tracking.model_registry import registered_versions
from tasks.tracking.runs import find_runs
from tasks.versioning import OUTPUTS, locked_keys, output_md5s

KEY = re.compile(r"[0-9a-f]{64}")
KEY_TAGS = ("variant_key", "evaluation_key", "export_key", "speed_key")


@dataclass(frozen=True)
class Root:
    """Something that refers to artifacts.

    Args:
        why: what, for people.
        keys: of the artifacts; what is not stored is no harm.
    """

    why: str
    keys: tuple[str, ...]


def roots(workspace: Path) -> list[Root]:
    """All roots, the most binding first.

    Raises:
        InputError: a registered model or dvc.lock names something, and what that is cannot be found out.
    """
    # In this order: a version that is registered in between names a run that was there before.
    runs, versions = find_runs(workspace, status=None), registered_versions(workspace)
    return [
        *(_registered_root(version) for version in versions),
        *_dvc(workspace, runs),
        *_copied_roots(workspace),
        # A comparison names the runs of its variants, not artifacts.
        *(
            Root(f"MLflow run {run['run_id'][:8]} ({run['name']})", keys)
            for run in runs
            if (keys := _tagged_keys(run["tags"]))
        ),
    ]


def _registered_root(version: dict[str, Any]) -> Root:
    aliases = "".join(f", {alias}" for alias in version["aliases"])
    why = f"registered model {version['name']} version {version['version']}{aliases}"
    source = version["source"] or ""
    folder = [part for part in Path(source).parts if KEY.fullmatch(part)]
    keys = dict.fromkeys([*_tagged_keys(version["tags"]), *_tagged_keys(version["run_tags"]), *folder])
    if not keys and "/.espalier/" in source:
        raise InputError(
            f"{why} is {source}, and which stored result that is cannot be found out, so nothing is removed; delete "
            "the version in MLflow, or register it anew"
        )
    return Root(why, tuple(keys))


def _dvc(workspace: Path, runs: list[dict[str, Any]]) -> list[Root]:
    named, md5s = [], output_md5s(workspace)
    for path, keys in locked_keys(workspace).items():
        if keys is None:
            tracked = [run["tags"] for run in runs if run["tags"].get("dvc.md5") == md5s[path]]
            keys = [key for tags in tracked for key in _tagged_keys(tags)]
            if not keys and path.startswith(f"{OUTPUTS.name}/"):
                raise InputError(
                    f"dvc.lock names {path}, which is neither in DVC's cache nor in a run of MLflow: what it was made "
                    "from cannot be known, so nothing is removed; bring it back with `dvc fetch`, or make it anew with "
                    "`dvc repro`"
                )
        named.append(Root(f"dvc.lock: {path}", tuple(keys)))
    return named


def _copied_roots(workspace: Path) -> list[Root]:
    """The copies in artifacts/."""
    copied = []
    for file in sorted((workspace / OUTPUTS).rglob(MANIFEST)):
        manifest = json.loads(file.read_text())
        if isinstance(manifest, dict) and is_consistent(manifest, manifest.get("key", "")):
            copied.append(Root(file.parent.relative_to(workspace).as_posix(), (manifest["key"],)))
    return copied


def _tagged_keys(tags: dict[str, str]) -> tuple[str, ...]:
    return tuple(tags[name] for name in KEY_TAGS if name in tags)
