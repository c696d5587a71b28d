"""From an MLflow run back to the variant: the same bits from the run alone, and what is said where they differ."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from tracked import make

from flows.actions.reproduce import reproduce_run, require_identical
from pruning_core.errors import ComputationError, InputError
from tasks.tracking.run_index import artifact_folder
from tasks.tracking.runs import find_runs

pytestmark = pytest.mark.slow

OVERRIDES = ["variants.sparsegpt-50.sparsity=0.4", "variants.sparsegpt-50.propagate=dense", "calibration.sequences=6"]


@pytest.fixture(scope="module")
def tracked(make_workspace, texts: Path) -> tuple[Path, str]:
    """A workspace with a text of its own, and the run of a variant that no params.yaml has."""
    root = make_workspace()
    shutil.copy(texts / "train.txt", root)
    own = [f"calibration.text.path={root / 'train.txt'}"]
    return root, make(root, "sparsegpt-50", overrides=OVERRIDES + own)["sparsegpt-50"]["run_id"]


@pytest.fixture
def workspace(tracked, tmp_path: Path, monkeypatch) -> tuple[Path, str]:
    """A copy of it, as the current folder, with an empty store."""
    root = shutil.copytree(tracked[0], tmp_path / "copy")
    shutil.rmtree(root / ".espalier" / "objects")
    monkeypatch.chdir(root)
    return root, tracked[1]


def folder_of(root: Path, run_id: str) -> Path:
    [run] = [run for run in find_runs(root) if run["run_id"] == run_id]
    return artifact_folder(root, run)


def test_the_run_alone_gives_the_same_bits_again(workspace):
    root, run_id = workspace
    (root / "params.yaml").unlink()
    found = reproduce_run(run_id[:10], from_cache=False, quiet=True)
    assert found["identical"] and found["changed"] == {} and found["first"] is None
    places = {step["place"]: step["kind"] for step in found["steps"]}
    assert places["evaluation"] == "evaluate" and places["model > block-1 > statistics"] == "statistics"
    assert all(step["then"] == step["now"] for step in found["steps"])
    # It was computed, beside the workspace's store, and its own store is gone.
    assert not (root / ".espalier" / "objects").exists() and not list((root / ".espalier/reproductions").iterdir())


def test_the_run_says_everything_that_the_variant_depends_on(tracked):
    root, run_id = tracked
    settings = yaml.safe_load((folder_of(root, run_id) / "settings.yaml").read_text())
    assert set(settings["variants"]) == {"sparsegpt-50"} and settings["variants"]["sparsegpt-50"]["sparsity"] == 0.4
    assert settings["calibration"]["sequences"] == 6 and settings["evaluation"]["windows"] == 12
    assert settings["compute"]["dtype"] == "float32" and settings["model"] == "models/tiny"


def test_the_first_step_with_another_digest_is_named(workspace):
    root, run_id = workspace
    text = root / "train.txt"
    folder = folder_of(root, run_id)
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    settings["calibration"]["text"]["path"] = str(text)
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    text.write_text(text.read_text().replace("w7 ", "w8 "))
    found = reproduce_run(run_id, from_cache=True, quiet=True)
    assert not found["identical"] and found["first"]["kind"] == "tokens"
    with pytest.raises(ComputationError, match=r"the first step with another digest is .*tokens \(tokens\)"):
        require_identical(found)


def test_what_changed_since_then_is_told(workspace):
    root, run_id = workspace
    file = folder_of(root, run_id) / "lineage.json"
    lineage = json.loads(file.read_text())
    lineage["versions"]["torch"] = "1.0"
    lineage["modules"]["tasks.steps.prune_block"] = "0" * 64
    lineage["modules"]["tasks.no_longer_there"] = "1" * 64
    file.write_text(json.dumps(lineage))
    changed = reproduce_run(run_id, from_cache=True, quiet=True)["changed"]
    assert list(changed["versions"]) == ["torch"] and changed["versions"]["torch"][0] == "1.0"
    assert changed["modules"].keys() == {"tasks.steps.prune_block", "tasks.no_longer_there"}
    assert changed["modules"]["tasks.no_longer_there"] == ["1" * 64, "gone"]


def test_a_run_that_is_not_there_or_not_the_only_one_is_refused(workspace):
    root, run_id = workspace
    with pytest.raises(InputError, match="no finished MLflow run 'xyz'"):
        reproduce_run("xyz", from_cache=True, quiet=True)
    with pytest.raises(InputError, match="2 runs begin with ''"):
        reproduce_run("", from_cache=True, quiet=True)
    (folder_of(root, run_id) / "settings.yaml").unlink()
    with pytest.raises(InputError, match=r"has no settings.yaml and lineage.json .*espalier compress sparsegpt-50"):
        reproduce_run(run_id, from_cache=True, quiet=True)
