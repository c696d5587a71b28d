"""`plugins` in params.yaml: files of the workspace with methods of its own."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pruning_core.errors import InputError


def plugin_files(mapping: Mapping[str, Any]) -> tuple[str, ...]:
    """The files that a params.yaml names, relative to its folder, in their order; () where it names none.

    Raises:
        InputError: no list of relative .py paths, or two files of one name.
    """
    files = mapping.get("plugins", [])
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise InputError(
            f"plugins must be a list of Python files of the workspace, such as [my_method.py], got {files!r}"
        )
    for file in files:
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts or path.suffix != ".py" or not path.stem.isidentifier():
            raise InputError(
                f"plugins: {file!r} must be the relative path of a .py file below the folder of params.yaml, its name "
                "made of letters, digits and _"
            )
    stems = [PurePosixPath(file).stem for file in files]
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        raise InputError(f"plugins: two files are called {twice[0]}.py; rename one, or list it once")
    return tuple(files)
