"""The dense model and the texts as inputs of steps: named by their content, never copied into the store."""

import contextlib
import json
from pathlib import Path

from pruning_core.checkpoint.durable_files import file_sha256
from pruning_core.checkpoint.hub_snapshot import REMOTE_CODE
from pruning_core.settings.recipe import Settings
from pruning_core.source import SETTINGS, TOKENIZER_FILES, SourceModel, resolve
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import write_json

KIND = "source"


class FileDigests:
    """sha256 of files, hashed again only when size, time or inode changed.

    Args:
        path: JSON file that remembers them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list] = {}
        # Where they cannot be read, the files are.
        with contextlib.suppress(FileNotFoundError, ValueError):
            self._known = json.loads(path.read_text())

    def __call__(self, file: Path) -> str:
        """Hex sha256 of the file's bytes."""
        file = file.resolve()
        state = file.stat()
        signature = [state.st_size, state.st_mtime_ns, state.st_ino, state.st_ctime_ns]
        entry = self._known.get(str(file))
        if entry is None or entry[0] != signature:
            self._known[str(file)] = entry = [signature, file_sha256(file)]
            write_json(self._path, self._known)
        return entry[1]


def source_model(workspace: Path, settings: Settings) -> SourceModel:
    """The model that params.yaml names, found complete."""
    hash_file = FileDigests(workspace / ".espalier" / "file-digests.json")
    return resolve(
        settings.model, trust_remote_code=settings.trust_remote_code, workspace=workspace, hash_file=hash_file
    )


def as_artifact(source: SourceModel) -> Artifact:
    """The model's directory as an input of steps; its digest stands for config, weights and tokenizer."""
    return Artifact(KIND, source.digest, source.digest, source.path.resolve())


def companion_files(directory: Path) -> list[Path]:
    """The files of a model directory that are neither weights nor made by a loader: config, tokenizer, remote code."""
    patterns = (*SETTINGS, *TOKENIZER_FILES, REMOTE_CODE)
    files = {file for pattern in patterns for file in directory.glob(pattern) if file.is_file()}
    return sorted(files - {directory / "model.safetensors.index.json"})
