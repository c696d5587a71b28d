"""The folder that holds params.yaml, and where its results go."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning_core.settings.plugins import plugin_files
from pruning_core.settings.recipe import Settings, parse_settings
from tasks.engine.step import Context
from tasks.store.store import Store
from tasks.workspace.params import read_params
from tasks.workspace.plugins import load_plugins

HIDDEN = ".espalier"
COPIES = Path(".dvc") / "tmp" / "exps"
"""Where DVC puts the copies of a workspace that queued experiments run in."""


@dataclass(frozen=True)
class Workspace:
    """A workspace with its parsed settings.

    Args:
        root: absolute folder of params.yaml.
        settings: its content after overrides.
        overrides: the overrides, as given.
    """

    root: Path
    settings: Settings
    overrides: tuple[str, ...] = ()

    @classmethod
    def open(cls, root: Path | None = None, overrides: list[str] | None = None) -> "Workspace":
        """Read and check params.yaml in `root` (default: the current folder), and load its plugins.

        Raises:
            InputError: anything in it is wrong.
        """
        root = Path(root or Path.cwd()).resolve()
        return cls(root, settings_in(root, read_params(root / "params.yaml", overrides)), tuple(overrides or ()))

    @property
    def hidden(self) -> Path:
        """Where everything made by machine lies; a copy that DVC made for a queued experiment shares the original's."""
        return original(self.root) / HIDDEN

    @property
    def store(self) -> Store:
        """The artifacts of this workspace."""
        return Store(self.hidden)

    def context(self) -> Context:
        """A context that runs steps directly."""
        return Context(self.store, self.root)

    def git_commit(self) -> str | None:
        """The checked-out commit, with + when files differ from it; None outside git."""
        try:
            done = subprocess.run(
                ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
                cwd=self.root,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
                env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            )
        except FileNotFoundError:
            return None
        return done.stdout.strip() or None


def settings_in(root: Path, mapping: Any) -> Settings:
    """The settings that a mapping as in params.yaml makes in a workspace, whose plugins are loaded.

    Raises:
        InputError: anything in it is wrong.
    """
    if isinstance(mapping, Mapping):
        load_plugins(root, plugin_files(mapping))
    return parse_settings(mapping)


def original(root: Path) -> Path:
    """The workspace that `root` is DVC's temporary copy of; otherwise `root`."""
    for folder in root.parents:
        if folder.parts[-3:] == COPIES.parts:
            return folder.parents[2]
    return root
