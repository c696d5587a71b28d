"""The project's own files as syntax trees: who imports whom."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pruning_core", "tasks", "flows")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
# A peer's virtual environment may lie below this folder.
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py")) + sorted((ROOT / "benchmarks").glob("*/*.py"))


def named(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def dotted(file: Path) -> str:
    return named(file).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes())


def imports(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that is imported anywhere, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def graph() -> dict[str, frozenset[str]]:
    """Dotted name of each of our modules -> those that it imports anywhere, also for type checkers alone.

    `from package import module` depends on the module, not on the package.
    """
    modules = {dotted(file): file for file in FILES + BENCHMARKS}
    imported = {}
    for name, file in modules.items():
        used = set()
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                used |= inner if inner <= modules.keys() else {*(inner & modules.keys()), node.module}
        imported[name] = frozenset(used & modules.keys() - {name})
    return imported


def circles(edges: dict[str, frozenset[str]]) -> list[list[str]]:
    """What reaches itself: every group of nodes that all reach each other, sorted."""
    reached: dict[str, set[str]] = {}
    for start in edges:
        seen, waiting = set(), [start]
        while waiting:
            for node in edges.get(waiting.pop(), ()):
                if node not in seen:
                    seen.add(node)
                    waiting.append(node)
        reached[start] = seen
    groups = {
        tuple(sorted({start} | {o for o in seen if start in reached.get(o, ())}))
        for start, seen in reached.items()
        if start in seen
    }
    return [list(group) for group in sorted(groups)]
