"""Which folder is a workspace."""

from pathlib import Path

from tasks.workspace.workspace import original


def test_a_copy_that_dvc_made_for_an_experiment_is_that_of_its_workspace(tmp_path: Path):
    assert original(tmp_path / ".dvc" / "tmp" / "exps" / "tmp0a1b") == tmp_path
    assert original(tmp_path / ".dvc" / "tmp" / "exps" / "tmp0a1b" / "inner") == tmp_path
    assert original(tmp_path / "exps" / "one") == tmp_path / "exps" / "one"
