"""Files of a workspace that register methods: their code is in the keys, and wrong ones are told in a sentence."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from pruning_core.errors import InputError
from pruning_core.saliency import SALIENCIES, ColumnStatistics
from pruning_core.settings.plugins import plugin_files
from tasks.engine.step import Step
from tasks.lineage.provenance import settings_of
from tasks.parallel import process_group
from tasks.pipeline.variant import Pipeline
from tasks.steps.prune_block import PruneBlockParams, prune_block
from tasks.workspace.plugins import load_plugins, loaded_plugins
from tasks.workspace.workspace import Workspace

METHOD = '''"""Wanda to a power."""

from torch import Tensor

from pruning_core.saliency import SALIENCIES, ColumnStatistics


@SALIENCIES.register("tempered")
class Tempered:
    """w^2 H_jj^power."""

    power: float = 0.5
    needs = frozenset({"hessian_diag"})

    def column_scale(self, columns: ColumnStatistics, in_features: int) -> Tensor:
        return columns.hessian_diag.pow(self.power)
'''
CALLED = METHOD.replace("from torch", "from workspace_plugins.helping import power\nfrom torch").replace(
    "columns.hessian_diag.pow(self.power)", "power(columns.hessian_diag, self.power)"
)
HELPING = "def power(x, p):\n    return x.pow(p)\n"
TEMPERED = {"saliency": {"name": "tempered"}, "pattern": {"name": "unstructured"}, "sparsity": 0.5}


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    load_plugins(Path.cwd(), [])


@pytest.fixture
def root(workspace_root: Path) -> Path:
    """The tiny workspace with a method of its own and a variant of it."""
    (workspace_root / "tempered.py").write_text(METHOD)
    params = yaml.safe_load((workspace_root / "params.yaml").read_text())
    params |= {"plugins": ["tempered.py"], "variants": params["variants"] | {"tempered-50": TEMPERED}}
    (workspace_root / "params.yaml").write_text(yaml.safe_dump(params))
    return workspace_root


def modules(root: Path) -> dict[str, str]:
    """Of our code and the workspace's, what the key of a block of the variant holds."""
    return modules_of(Workspace.open(root).settings.recipe("tempered-50").method_spec)


def modules_of(method: dict) -> dict[str, str]:
    """Of the code of a method."""
    running = {"trust_remote_code": False, "device": "cpu", "dtype": "float32", "batch": 4, "states": "memory"}
    params = PruneBlockParams(block=0, method=method, propagate="sparse", **running)
    return prune_block.call(params, {}).ingredients["modules"]


def test_a_variant_of_a_method_of_the_workspace_is_what_the_formula_says(root: Path):
    workspace = Workspace.open(root, ["variants.tempered-50.saliency.power=1.0"])
    scale = workspace.settings.recipe("tempered-50").method.saliency.column_scale
    diag = torch.tensor([1.0, 4.0, 9.0])
    torch.testing.assert_close(scale(ColumnStatistics(hessian_diag=diag), 3), diag)
    # To the power of 1 it is Wanda: the same blocks, bit by bit.
    overrides = ["variants.tempered-50.saliency.power=1.0", "variants.magnitude-50={saliency: {name: wanda}, "]
    overrides[1] += "pattern: {name: unstructured}, sparsity: 0.5}"
    workspace = Workspace.open(root, overrides)
    pipeline = Pipeline(workspace.context(), workspace.settings)
    own, wanda = (pipeline.model(name).manifest["inputs"] for name in ("tempered-50", "magnitude-50"))
    assert {name: entry["digest"] for name, entry in own.items()} == {n: e["digest"] for n, e in wanda.items()}
    assert own["block-0"]["key"] != wanda["block-0"]["key"]


def test_edited_code_changes_the_key_at_once_and_a_comment_does_not(root: Path):
    before = modules(root)
    assert "workspace_plugins.tempered" in before
    (root / "tempered.py").write_text("# A comment.\n" + METHOD.replace('"""w^2', '"""Tempered: w^2'))
    assert modules(root) == before
    # Within one second and of one length, which a bytecode cache would not notice.
    (root / "tempered.py").write_text(METHOD.replace("power: float = 0.5", "power: float = 0.7"))
    after = modules(root)
    assert {name for name in before if before[name] != after[name]} == {"workspace_plugins.tempered"}
    assert Workspace.open(root).settings.recipe("tempered-50").method.saliency.power == 0.7


def test_a_file_that_a_method_imports_is_in_the_key_too(root: Path):
    (root / "tempered.py").write_text(CALLED)
    (root / "own").mkdir()
    (root / "own" / "helping.py").write_text(HELPING)
    params = yaml.safe_load((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(params | {"plugins": ["own/helping.py", "tempered.py"]}))
    before = modules(root)
    (root / "own" / "helping.py").write_text(HELPING.replace("pow(p)", "pow(p) + 1"))
    after = modules(root)
    assert {name for name in before if before[name] != after[name]} == {"workspace_plugins.helping"}


def test_what_other_variants_are_made_with_stays_as_it_was(root: Path):
    spec = Workspace.open(root).settings.recipe("sparsegpt-50").method_spec
    assert not [name for name in modules_of(spec) if "workspace_plugins" in name]


def test_another_workspace_does_not_know_the_method(root: Path, tmp_path_factory):
    Workspace.open(root)
    assert "tempered" in SALIENCIES.names()
    other = tmp_path_factory.mktemp("other")
    params = yaml.safe_load((root / "params.yaml").read_text())
    (other / "params.yaml").write_text(yaml.safe_dump({key: params[key] for key in params if key != "plugins"}))
    with pytest.raises(InputError, match="'tempered' is not a known saliency"):
        Workspace.open(other)


def test_a_run_names_the_files_that_it_takes_to_make_it_again(root: Path):
    settings = Workspace.open(root).settings
    assert settings_of(settings, "tempered-50")["plugins"] == ["tempered.py"]


def test_the_other_processes_of_torchrun_load_what_the_first_one_has(root: Path, monkeypatch):
    workspace = Workspace.open(root)
    sent: list[bytes] = []
    monkeypatch.setattr(process_group, "processes", lambda: 2)
    monkeypatch.setattr(process_group, "_send", sent.append)
    with process_group.together("test_plugins", "STEP", {}, {}, workspace.context()):
        pass
    load_plugins(root, [])
    assert "tempered" not in SALIENCIES.names()
    known: list[bool] = []
    monkeypatch.setattr(process_group, "_receive", [b"null", *sent].pop)
    following = Step("following", lambda *_: known.append("tempered" in SALIENCIES.names()))
    monkeypatch.setattr("tasks.engine.step.load_step", lambda *_: following)
    process_group.follow()
    assert known == [True] and loaded_plugins() == [str(root / "tempered.py")]
    assert json.loads(sent[0])["plugins"] == loaded_plugins()


@pytest.mark.parametrize(
    ("plugins", "sentence"),
    [
        ("tempered.py", "plugins must be a list of Python files"),
        ([3], "plugins must be a list of Python files"),
        (["/etc/tempered.py"], "must be the relative path of a .py file"),
        (["../tempered.py"], "must be the relative path of a .py file"),
        (["tempered"], "must be the relative path of a .py file"),
        (["my-method.py"], "made of letters, digits and _"),
        (["tempered.py", "own/tempered.py"], "two files are called tempered.py"),
    ],
)
def test_settings_that_name_no_files_are_refused(plugins, sentence: str):
    with pytest.raises(InputError, match=sentence):
        plugin_files({"plugins": plugins})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "plugins: there is no file tempered.py in "),
        ("x = = 1\n", "plugins: tempered.py line 1 is not Python: invalid syntax"),
        ("import workspace_plugins.other\n", "tempered.py imports workspace_plugins.other, which is not there"),
        (
            METHOD.replace('"tempered"', '"wanda"'),
            "'wanda' of workspace_plugins.tempered needs another name: pruning_core",
        ),
    ],
)
def test_a_file_that_cannot_be_loaded_is_told_in_a_sentence(root: Path, text: str | None, sentence: str):
    (root / "tempered.py").unlink()
    if text is not None:
        (root / "tempered.py").write_text(text)
    with pytest.raises(InputError, match=sentence):
        Workspace.open(root)


def test_a_file_elsewhere_is_not_run_through_a_link(root: Path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "tempered.py"
    (root / "tempered.py").rename(elsewhere)
    (root / "tempered.py").symlink_to(elsewhere)
    with pytest.raises(InputError, match="leads out of the workspace"):
        Workspace.open(root)
