import pytest

from pruning_core.errors import ComputationError
from tasks.engine.code_digest import module_digests, source_digest

FILES = {
    "pruning_core/__init__.py": "from pruning_core.solve import solve\n",
    "pruning_core/solve.py": '"""Solve."""\nfrom pruning_core.factor import factor\n\n\ndef solve(x):\n'
    '    """Do it."""\n    return factor(x) + 1\n',
    "pruning_core/factor.py": "def factor(x):\n    from . import deep\n    return deep.twice(x)\n",
    "pruning_core/deep.py": "LIMIT = 3\n\n\ndef twice(x):\n    return 2 * x\n",
    "pruning_core/other.py": "def other():\n    return 0\n",
    "pruning_core/methods/__init__.py": "from pruning_core.registry import R\nMETHODS = R()\n",
    "pruning_core/methods/first.py": "from pruning_core.methods import METHODS\nX = 1\n",
    "pruning_core/registry.py": "class R:\n    pass\n",
    "tasks/__init__.py": "",
    "tasks/store/store.py": "def save():\n    return 1\n",
    "tasks/prune.py": "import json\nfrom tasks.store.store import save\nfrom pruning_core.solve import solve\n\n\n"
    "def prune(x):\n    return save(solve(x))\n",
}


@pytest.fixture
def root(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def edit(root, name, old, new):
    path = root / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def digest(root, *modules):
    return source_digest(modules or ["tasks.prune"], root)


def test_the_modules_are_the_steps_own_and_all_that_it_imports_to_any_depth(root):
    assert list(module_digests(["tasks.prune"], root)) == [
        "pruning_core.deep",
        "pruning_core.factor",
        "pruning_core.solve",
        "tasks.prune",
    ]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("pruning_core/solve.py", '"""Solve."""', '"""Solves it\n\n    all."""'),
        ("pruning_core/solve.py", '    """Do it."""\n', ""),
        ("pruning_core/deep.py", "    return 2 * x", "    # why: because\n\n    return 2 * x  # twice"),
        ("pruning_core/deep.py", "LIMIT = 3", 'LIMIT = 3\n"""Blocks at once."""'),
        ("pruning_core/deep.py", "2 * x", "(2 *\n            x)"),
        ("pruning_core/other.py", "return 0", "return 1"),
        ("pruning_core/__init__.py", "from", "from pruning_core.other import other\nfrom"),
        ("tasks/store/store.py", "return 1", "return 2"),
    ],
)
def test_an_edit_that_cannot_change_the_result_keeps_the_digest(root, name, old, new):
    before = digest(root)
    edit(root, name, old, new)
    assert digest(root) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("tasks/prune.py", "save(solve(x))", "save(solve(-x))"),
        ("pruning_core/solve.py", "+ 1", "+ 2"),
        ("pruning_core/deep.py", "2 * x", "x * 2"),
        ("pruning_core/deep.py", "LIMIT = 3", "LIMIT = 3.0"),
    ],
)
def test_an_edit_of_code_however_deep_changes_the_digest(root, name, old, new):
    before = digest(root)
    edit(root, name, old, new)
    assert digest(root) != before


def test_the_changed_module_can_be_named(root):
    before = module_digests(["tasks.prune"], root)
    edit(root, "pruning_core/deep.py", "2 * x", "3 * x")
    after = module_digests(["tasks.prune"], root)
    assert {name for name in after if before[name] != after[name]} == {"pruning_core.deep"}


def test_a_package_counts_when_something_is_taken_from_its_own_file(root):
    found = module_digests(["pruning_core.methods.first"], root)
    assert list(found) == ["pruning_core.methods", "pruning_core.methods.first", "pruning_core.registry"]


def test_a_module_chosen_by_the_params_is_added(root):
    before = digest(root, "tasks.prune", "pruning_core.methods.first")
    edit(root, "pruning_core/methods/first.py", "X = 1", "X = 2")
    assert digest(root, "tasks.prune", "pruning_core.methods.first") != before


@pytest.mark.parametrize("line", ["from pruning_core import solve_it\n", "import pruning_core\n"])
def test_taking_something_from_the_package_itself_is_refused_because_its_code_is_out_of_sight(root, line):
    path = root / "tasks" / "prune.py"
    path.write_text(line + path.read_text())
    with pytest.raises(ComputationError, match="import from the module that defines it"):
        digest(root)


def test_a_module_without_a_file_is_an_error_not_a_gap(root):
    edit(root, "tasks/prune.py", "pruning_core.solve", "pruning_core.absent")
    with pytest.raises(ComputationError, match=r"pruning_core\.absent"):
        digest(root)


def test_the_running_core_can_be_digested():
    found = module_digests(["pruning_core.registry"])
    assert set(found) == {"pruning_core.registry", "pruning_core.errors"}
