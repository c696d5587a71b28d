"""A digest of the code that a step runs: its own module and all of ours that it imports, to any depth.

Two texts that differ only in comments, docstrings or layout have one digest; an edit of any helper gives
another. Imports are read from the syntax trees, so a module chosen at run time (a registered method) is
invisible here: the step names it (see tasks.engine.step).
"""

import ast
import functools
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from pruning_core.errors import ComputationError
from tasks.store.canonical_json import digest_of

PACKAGES = ("pruning_core", "tasks")
PLUGINS = "workspace_plugins"
"""The package of the files that a workspace adds (tasks.workspace.plugins)."""
FOLLOWED = (*PACKAGES, PLUGINS)
_PARSING = threading.Lock()
"""Held around `ast.parse`, which counts its depth for all threads together and fails when two are at it."""
STEPS = "tasks.steps"
"""Of tasks/ only this room makes results; the rest carries, stores and shows them, and its edits throw none away."""


def source_digest(modules: Iterable[str], root: Path | None = None) -> str:
    """One digest over `module_digests`, 64 hex digits."""
    return digest_of(module_digests(modules, root))


def module_digests(modules: Iterable[str], root: Path | None = None) -> dict[str, str]:
    """Dotted name -> digest of each of `modules` and of everything of ours that they import.

    Args:
        modules: dotted names; at least one.
        root: the folder that holds pruning_core/ and tasks/; by default that of the running code. The running
            code is read once per process: what was imported does not change when its file does.

    Raises:
        ComputationError: a module has no file, or takes something from `pruning_core` itself.
    """
    tree = _running() if root is None else SourceTree(Path(root))
    return tree.digests(modules)


def reread_plugins(modules: Iterable[str]) -> None:
    """Forget the plugins parsed before, and parse `modules`: those that are loaded now."""
    tree = _running()
    tree.forget(PLUGINS)
    if modules := list(modules):
        tree.digests(modules)


@functools.cache
def _running() -> "SourceTree":
    return SourceTree(Path(__file__).resolve().parents[2])


class SourceTree:
    """The modules below one folder, each parsed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._parsed: dict[str, tuple[str, frozenset[str]]] = {}

    def digests(self, modules: Iterable[str]) -> dict[str, str]:
        """See `module_digests`."""
        waiting, seen = list(modules), {}
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen[name], imported = self._module(name)
                waiting.extend(one for one in imported if _makes_results(one))
        return dict(sorted(seen.items()))

    def forget(self, package: str) -> None:
        """Read the modules of `package` anew when they are asked for."""
        self._parsed = {name: parsed for name, parsed in self._parsed.items() if name.partition(".")[0] != package}

    def _module(self, name: str) -> tuple[str, frozenset[str]]:
        if name not in self._parsed:
            path = self._path(name)
            if path is None:
                raise ComputationError(f"the code of module {name} was not found below {self.root}")
            with _PARSING:
                tree = without_docstrings(ast.parse(path.read_bytes(), filename=str(path)))
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            self._parsed[name] = digest_of(ast.dump(tree)), frozenset(self._imports(tree, name, package))
        return self._parsed[name]

    def _path(self, name: str) -> Path | None:
        base = self.root.joinpath(*name.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
        # A step that lives outside the packages, as in a test or a script.
        loaded = getattr(sys.modules.get(name), "__file__", None)
        return Path(loaded) if loaded and name.partition(".")[0] not in PACKAGES else None

    def _imports(self, tree: ast.AST, name: str, package: str) -> Iterable[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                ours = (alias.name for alias in node.names if alias.name.partition(".")[0] in FOLLOWED)
                yield from (self._checked(module, module, name) for module in ours)
            elif isinstance(node, ast.ImportFrom):
                origin = _origin(node, package)
                if origin.partition(".")[0] in FOLLOWED:
                    yield from (self._source(origin, alias.name, name) for alias in node.names)

    def _source(self, origin: str, name: str, importer: str) -> str:
        """What `from origin import name` depends on: the submodule of that name, or origin itself."""
        if self._path(f"{origin}.{name}") is not None:
            return f"{origin}.{name}"
        return self._checked(origin, name, importer)

    def _checked(self, origin: str, name: str, importer: str) -> str:
        if origin in PACKAGES:
            raise ComputationError(
                f"{importer} takes {name} from {origin} itself, where cache keys cannot see its code; "
                "import from the module that defines it"
            )
        return origin


def _makes_results(module: str) -> bool:
    return module.partition(".")[0] != "tasks" or module.startswith(f"{STEPS}.")


def _origin(node: ast.ImportFrom, package: str) -> str:
    """The absolute dotted name that a from-import names, relative ones resolved against `package`."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def without_docstrings(tree: ast.AST) -> ast.AST:
    """`tree` without bare strings (docstrings, also those of attributes); edited in place."""
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, [one for one in statements if not _is_bare_string(one)])
    return tree


def _is_bare_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
