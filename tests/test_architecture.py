"""Who may import what, read from the syntax trees of every file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pruning_core", "tasks", "flows")
ALLOWED = {"pruning_core": {"pruning_core"}, "tasks": {"pruning_core", "tasks"}, "flows": set(PACKAGES)}
OWNERS = {
    "mlflow": {"tasks/tracking.py"},
    "dvc": {"tasks/versioning.py"},
    "prefect": {
        *("tasks/prefect_tasks.py", "tasks/prefect_cache.py", "tasks/temporary_servers.py", "tasks/flow_runs.py"),
        *("flows/variants.py", "flows/side_by_side.py", "flows/sweeping.py", "flows/scheduled.py", "flows/serving.py"),
        *(
            "flows/exporting.py",
            "flows/shard_team.py",
            "tasks/task_runners.py",
            "tasks/staying.py",
            "tasks/search_tasks.py",
        ),
    },
}
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
LONGEST = 300
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
# A peer's virtual environment may lie below this folder.
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))


def named(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that is imported anywhere, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(tree: ast.Module) -> ast.Module:
    """What runs when the module is imported: functions emptied, and what only type checkers read left out."""
    kept = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))]
    module = ast.parse(ast.unparse(ast.Module(kept, [])))
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [ast.Pass()]
    return module


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Pickles, and handlers that would swallow a bug."""
    for name in imports(tree):
        if name.partition(".")[0] in PICKLES or name in ("torch.load", "torch.save"):
            yield f"imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.save"):
            yield f"uses {ast.unparse(node)} in line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield f"allows pickles in line {node.value.lineno}"
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if {ast.unparse(one) for one in caught if one} & {"Exception", "BaseException"} or None in caught:
                yield f"catches everything in line {node.lineno}"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import pickle", 1),
        ("from torch import load", 1),
        ("def f():\n    import torch\n    torch.load('x')", 1),
        ("numpy.load('x', allow_pickle=True)", 1),
        ("try:\n    f()\nexcept (KeyError, Exception):\n    pass", 1),
        ("try:\n    f()\nexcept:\n    pass", 1),
        ("try:\n    json.load(x)\nexcept (KeyError, OSError):\n    pass", 0),
    ],
)
def test_what_is_unsafe_is_recognised(code: str, found: int):
    assert len(list(unsafe(ast.parse(code)))) == found


def test_imports_go_from_flows_to_tasks_to_the_core_and_never_back():
    wrong = [
        f"{named(file)} imports {name}"
        for file in FILES
        for name in imports(ast.parse(file.read_bytes()))
        if name.partition(".")[0] in PACKAGES and name.partition(".")[0] not in ALLOWED[file.relative_to(ROOT).parts[0]]
    ]
    assert FILES and wrong == []


@pytest.mark.parametrize("library", OWNERS)
def test_each_orchestrator_is_imported_in_its_own_files_only(library: str):
    importers = {
        named(file)
        for file in FILES
        if any(name.partition(".")[0] == library for name in imports(ast.parse(file.read_bytes())))
    }
    assert importers == OWNERS[library]


def test_slow_libraries_are_imported_when_they_are_needed_only():
    for file in ("tasks/tracking.py", "tasks/versioning.py"):
        roots = {name.partition(".")[0] for name in imports(at_import(ast.parse((ROOT / file).read_bytes())))}
        assert not roots & {"mlflow", "dvc", "prefect"}
    light = ("json", "os", "sys", "pathlib", "typing", "typer", "flows", "flows.commands", "flows.options")
    for file in ("cli", "commands", "options"):
        found = imports(at_import(ast.parse((ROOT / "flows" / f"{file}.py").read_bytes())))
        assert [
            name for name in found if name not in light and name.rpartition(".")[0] not in {*light} - {"flows"}
        ] == []


def test_nothing_is_pickled_and_no_handler_swallows_a_bug():
    files = FILES + BENCHMARKS
    assert [f"{named(file)} {what}" for file in files for what in unsafe(ast.parse(file.read_bytes()))] == []


def test_no_file_is_longer_than_a_person_reads_at_once():
    lengths = {named(file): len(file.read_text().splitlines()) for file in FILES + BENCHMARKS}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}
