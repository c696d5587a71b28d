"""What the benchmarks' commands are run in."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.common.sections import sections


@pytest.fixture
def short_workspace(workspace_root: Path, monkeypatch) -> Path:
    """The current folder: a workspace with a tiny model, and short.yaml with its little text for `--settings`."""
    monkeypatch.chdir(workspace_root)
    params = yaml.safe_load((workspace_root / "params.yaml").read_text())
    short = {name: params[name] for name in ("calibration", "evaluation")}
    (workspace_root / "short.yaml").write_text(yaml.safe_dump(short))
    return workspace_root


@pytest.fixture
def run_benchmark(short_workspace: Path):
    """run_benchmark(app, *arguments) there; returns the sections of its page, and the folder of page and figures."""

    def start(app, *arguments: str):
        page = short_workspace / "pages" / "page.md"
        given = ["--settings", "short.yaml", "--out", str(page), *arguments]
        done = CliRunner().invoke(app, given, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return sections(page.read_text()), page.parent

    return start
