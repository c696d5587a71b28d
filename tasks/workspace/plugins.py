"""Plugins: Python files of a workspace, listed under `plugins` in params.yaml, that register methods of their own.

They are modules of a package without a folder, so that a file called statistics.py hides nobody else's module and only
what is listed can be imported. A process has the files of one workspace; those of another, or a changed file, take
their place. Cache keys hold the digest of a file whose method is used, as of every other module.
"""

import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from pruning_core.errors import InputError
from pruning_core.registry import forget_methods
from tasks.engine.code_digest import PLUGINS, reread_plugins

_LOCK = threading.RLock()
_LOADED: dict[str, bytes] = {}
"""What was run last: file -> its bytes, the files as they were given, with the workspace in front."""


def load_plugins(root: Path, files: Iterable[str]) -> None:
    """Run the files that are not loaded as they are now, in their order; what others registered is forgotten.

    Args:
        root: the workspace.
        files: as `pruning_core.settings.plugins.plugin_files` gives them.

    Raises:
        InputError: a file is not there, leads out of the workspace, is not Python, imports a file that is not listed
            before it, or takes the name of a method that exists.
    """
    sources = {str(root / file): _read(root, file) for file in files}
    with _LOCK:
        if list(sources.items()) == list(_LOADED.items()):
            return
        _unload()
        for path, source in sources.items():
            _run(Path(path), source)
        _LOADED.update(sources)
        reread_plugins([f"{PLUGINS}.{Path(path).stem}" for path in sources])


def loaded_plugins() -> list[str]:
    """The files that are loaded, as absolute paths."""
    with _LOCK:
        return list(_LOADED)


def _read(root: Path, file: str) -> bytes:
    path = root / file
    if not path.is_file():
        raise InputError(f"plugins: there is no file {file} in {root}")
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"plugins: {file} leads out of the workspace; copy the file into it")
    return path.read_bytes()


def _unload() -> None:
    _LOADED.clear()
    forget_methods(PLUGINS)
    for name in [name for name in sys.modules if name.partition(".")[0] == PLUGINS]:
        del sys.modules[name]


def _run(path: Path, source: bytes) -> None:
    """Not by the import system: its bytecode caches take two edits within one second for one."""
    sys.modules.setdefault(PLUGINS, ModuleType(PLUGINS)).__path__ = []
    name = f"{PLUGINS}.{path.stem}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except SyntaxError as error:
        raise InputError(f"plugins: {path.name} line {error.lineno} is not Python: {error.msg}") from None
    except ModuleNotFoundError as error:
        raise InputError(
            f"plugins: {path.name} imports {error.name}, which is not there; a file of the workspace is imported as "
            f"{PLUGINS}.NAME, and listed before those that import it"
        ) from None
    setattr(sys.modules[PLUGINS], path.stem, module)
