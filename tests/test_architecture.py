"""Who may import what, read from the syntax trees of every file."""

import ast
from collections.abc import Iterator

import pytest
from source_tree import BENCHMARKS, FILES, PACKAGES, ROOT, imports, named, tree_of

ALLOWED = {"pruning_core": {"pruning_core"}, "tasks": {"pruning_core", "tasks"}, "flows": set(PACKAGES)}
OWNERS = {
    "mlflow": {"tasks/tracking/connection.py", "tasks/tracking/runs.py"},
    "dvc": {"tasks/versioning.py"},
    "prefect": {
        *(f"tasks/orchestration/{name}.py" for name in ("step_tasks", "store_view", "temporary_servers", "flow_runs")),
        *(f"tasks/parallel/{name}.py" for name in ("task_runners", "resident_tasks", "prefect_pool")),
        *(f"flows/{name}.py" for name in ("compress", "parallel_variants", "sweep", "scheduled", "export")),
        "flows/actions/serve.py",
    },
}
PUBLIC_MLFLOW = {"mlflow", "mlflow.entities", "mlflow.exceptions"}
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
LONGEST = 300


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
        for name in imports(tree_of(file))
        if name.partition(".")[0] in PACKAGES and name.partition(".")[0] not in ALLOWED[file.relative_to(ROOT).parts[0]]
    ]
    assert FILES and wrong == []


@pytest.mark.parametrize("library", OWNERS)
def test_each_orchestrator_is_imported_in_its_own_files_only(library: str):
    importers = {
        named(file) for file in FILES if any(name.partition(".")[0] == library for name in imports(tree_of(file)))
    }
    assert importers == OWNERS[library]


def test_of_mlflow_only_what_is_public_is_used_and_its_database_is_opened_by_one_file():
    """What a client keeps for itself, MLflow's inner modules and the names of its tables change with its versions."""
    for file in sorted((ROOT / "tasks" / "tracking").glob("*.py")):
        tree = tree_of(file)
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert {name for name in modules if name.partition(".")[0] == "mlflow"} <= PUBLIC_MLFLOW
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert {name for name in attributes if name.startswith("_") and name[-2:] != "__"} == set(), named(file)
        assert ("sqlite3" in modules) == (file.stem == "database_faults"), named(file)


def test_slow_libraries_are_imported_when_they_are_needed_only():
    for file in (*OWNERS["mlflow"], *OWNERS["dvc"]):
        roots = {name.partition(".")[0] for name in imports(at_import(ast.parse((ROOT / file).read_bytes())))}
        assert not roots & {"mlflow", "dvc", "prefect"}
    light = {"collections.abc", "json", "os", "sys", "pathlib", "typing", "typer", "flows.commands"}
    commands = sorted((ROOT / "flows" / "commands").glob("*.py"))
    for file in (ROOT / "flows" / "cli.py", *commands):
        roots = {name for name in imports(at_import(tree_of(file))) if not name.startswith("flows.commands.")}
        assert {name for name in roots if name not in light and name.partition(".")[0] not in light} == set()


def test_nothing_is_pickled_and_no_handler_swallows_a_bug():
    files = FILES + BENCHMARKS
    assert [f"{named(file)} {what}" for file in files for what in unsafe(tree_of(file))] == []


def test_no_file_is_longer_than_a_person_reads_at_once():
    lengths = {named(file): len(file.read_text().splitlines()) for file in FILES + BENCHMARKS}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}
