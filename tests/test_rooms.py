"""Where things are: the rule of entry of every room, read from the syntax trees. docs/architecture.md has the table."""

import ast
import importlib
from collections import Counter
from pathlib import Path

import pytest
from source_tree import BENCHMARKS, FILES, ROOT, circles, dotted, graph, named, tree_of

from pruning_core.registry import Registry

REGISTRIES = {
    "pruning_core.allocation": "ALLOCATIONS",
    "pruning_core.compensation": "COMPENSATIONS",
    "pruning_core.export": "FORMATS",
    "pruning_core.patterns": "PATTERNS",
    "pruning_core.quantizers": "QUANTIZERS",
    "pruning_core.recovery": "RECOVERIES",
    "pruning_core.saliency": "SALIENCIES",
    "pruning_core.sensitivity": "SENSITIVITIES",
    "pruning_core.structured.importance": "IMPORTANCES",
    "pruning_core.text": "TEXTS",
}
"""Folder of methods -> its registry."""
STEPS_MAY_USE = {"tasks.engine.step", "tasks.progress", "tasks.store.artifact", "tasks.store.canonical_json"}
STEPS_MAY_USE |= {"tasks.store.directories", "tasks.parallel.process_group"}
STEPS_MAY_USE |= {"tasks.parallel.submit", "tasks.parallel.worker_pool"}
"""What of tasks/ a step needs in order to be run; nothing of it decides what its result is."""
CORE_ROOT = {"__init__", "errors", "progress", "registry", "source"}
LOOSE = {"pruning_core.source", "tasks.progress", "tasks.versioning", "flows.launch"}
"""Modules beside the rooms that import rooms, or are imported by them, on their own account."""


def room(module: str) -> str:
    """The folder of a module; a loose module is a room of its own, and helpers of methods belong to their methods."""
    if module in LOOSE:
        return module
    folder = module if (ROOT / module.replace(".", "/")).is_dir() else module.rpartition(".")[0]
    return next((methods for methods in REGISTRIES if folder.startswith(f"{methods}.")), folder)


def rooms() -> dict[str, frozenset[str]]:
    """Room -> the rooms that its modules import."""
    imported: dict[str, set[str]] = {}
    for module, used in graph().items():
        imported.setdefault(room(module), set()).update(room(one) for one in used)
    return {name: frozenset(used - {name}) for name, used in imported.items()}


def entered(package: str, *but: str) -> list[str]:
    """'module imports other' for each of tasks/ that modules of `package` import but may not."""
    return [
        f"{module} imports {one}"
        for module, used in graph().items()
        if module.startswith(f"{package}.")
        for one in sorted(used)
        if one.startswith("tasks.") and not one.startswith(f"{package}.") and one not in but
    ]


def test_circles_are_found():
    edges = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("a"), "d": frozenset("ae"), "e": frozenset("e")}
    assert circles(edges) == [["a", "b", "c"], ["e"]]


def test_no_module_imports_itself_by_way_of_others():
    assert circles(graph()) == []


def test_no_room_imports_itself_by_way_of_others():
    assert circles({name: used - {"pruning_core", "tasks", "flows"} for name, used in rooms().items()}) == []


def test_at_the_root_of_the_core_are_only_errors_progress_registry_and_source():
    assert {file.stem for file in (ROOT / "pruning_core").glob("*.py")} == CORE_ROOT


@pytest.mark.parametrize("package", REGISTRIES)
def test_a_folder_of_methods_holds_methods_only_each_in_the_file_of_its_name(package: str):
    registry = getattr(importlib.import_module(package), REGISTRIES[package])
    assert isinstance(registry, Registry) and registry.package == package
    folder = ROOT / package.replace(".", "/")
    files = {file.stem for file in folder.glob("*.py")} - {"__init__"}
    folders = {one.parent.name for one in folder.glob("*/__init__.py") if registers(one)}
    assert files | folders == set(registry.names())
    assert all(registry.module(name) == f"{package}.{name}" for name in registry.names())


def registers(file: Path) -> bool:
    calls = (one for one in ast.walk(tree_of(file)) if isinstance(one, ast.Call))
    return any(isinstance(one.func, ast.Attribute) and one.func.attr == "register" for one in calls)


def test_every_registry_is_known_here():
    registries = [
        named(file)
        for file in FILES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).startswith("Registry[")
    ]
    assert sorted(registries) == sorted(f"{package.replace('.', '/')}/__init__.py" for package in REGISTRIES)


def steps_in(file: Path) -> int:
    functions = (node for node in tree_of(file).body if isinstance(node, ast.FunctionDef))
    marks = [mark for node in functions for mark in node.decorator_list]
    return sum(isinstance(mark, ast.Call) and ast.unparse(mark.func) == "step" for mark in marks)


def test_a_file_of_the_steps_is_one_step_or_a_part_of_some():
    folder = ROOT / "tasks" / "steps"
    files = {file.stem: steps_in(file) for file in folder.glob("*.py") if file.stem != "__init__"}
    assert set(files.values()) <= {0, 1}
    steps = {name for name, number in files.items() if number}
    reached, waiting = set(), [f"tasks.steps.{name}" for name in steps]
    while waiting:
        reached.add(module := waiting.pop())
        waiting += [one for one in graph()[module] if one.startswith("tasks.steps.") and one not in reached]
    # The worker of a search is started by name, the source is what the first step is given.
    assert {f"tasks.steps.{name}" for name in files} == reached | {"tasks.steps.search_worker"}


def test_steps_are_made_nowhere_else():
    assert [named(file) for file in FILES if steps_in(file) and file.parent.name != "steps"] == []


def test_what_a_result_depends_on_of_the_tasks_is_in_the_room_of_steps():
    assert entered("tasks.steps", *STEPS_MAY_USE) == []


def test_the_store_knows_no_step_and_the_engine_no_particular_one():
    assert entered("tasks.store", "tasks.progress") == []
    assert [line for line in entered("tasks.engine") if " imports tasks.store." not in line] == []


def test_branches_of_the_pipeline_import_no_variant():
    assert [
        one for one in graph() if "tasks.pipeline.variant" in graph()[one] and one.startswith("tasks.pipeline.")
    ] == [
        "tasks.pipeline.export",
        "tasks.pipeline.open_pipeline",
    ]


def test_records_are_pure():
    assert entered("tasks.records") == []


def test_a_command_is_a_signature():
    for file in (ROOT / "flows" / "commands").glob("*.py"):
        bodies = [node for node in tree_of(file).body if isinstance(node, ast.FunctionDef)]
        loops = (ast.For, ast.While, ast.With, ast.FunctionDef, ast.Try)
        work = [one for node in bodies for one in ast.walk(node) if isinstance(one, loops) and one is not node]
        assert [named(file), *(ast.unparse(one).splitlines()[0] for one in work)] == [named(file)]


def test_actions_need_no_flow():
    flows = {dotted(file) for file in FILES if "flow" in decorators(file)}
    used = {module: graph()[module] & flows for module in graph() if module.startswith("flows.actions.")}
    # Serving starts a flow again and again.
    assert {module: found for module, found in used.items() if found} == {"flows.actions.serve": {"flows.scheduled"}}


def decorators(file: Path) -> set[str]:
    functions = (node for node in ast.walk(tree_of(file)) if isinstance(node, ast.FunctionDef))
    return {ast.unparse(mark).partition("(")[0] for node in functions for mark in node.decorator_list}


def test_every_page_of_the_benchmarks_has_a_room_with_an_entry():
    folders = {file.parent for file in BENCHMARKS} - {ROOT / "benchmarks", ROOT / "benchmarks" / "common"}
    assert [folder.name for folder in sorted(folders) if not (folder / "__main__.py").is_file()] == []
    assert [file.name for file in (ROOT / "benchmarks").glob("*.py")] == ["__init__.py"]


def test_a_test_lies_in_the_room_that_it_tests():
    tests = ROOT / "tests"
    files = list(tests.rglob("test_*.py"))
    homes = {file.parent for file in files}
    apart = {tests / "flows" / "chaos", tests / "flows" / "tutorials"}
    assert [home for home in sorted(homes - apart) if not (ROOT / home.relative_to(tests)).is_dir()] == []
    # Without packages of tests, pytest tells files apart by their names alone.
    assert [name for name, number in Counter(file.name for file in files).items() if number > 1] == []
