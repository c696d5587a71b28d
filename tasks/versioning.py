"""DVC: the same results as stage outputs, so that `dvc repro`, `dvc push` and `dvc exp` work on them.

This is the only module that imports dvc.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pruning_core.recipe import BASELINE
from tasks.artifact import Artifact
from tasks.store import Store

OUTPUTS = Path("artifacts")


@dataclass(frozen=True)
class StageOutput:
    """What a DVC stage keeps in the workspace.

    Args:
        stage: its name in dvc.yaml.
        path: relative to the workspace.
        artifact: what lies there.
    """

    stage: str
    path: Path
    artifact: Artifact


def model_output(name: str, artifact: Artifact) -> StageOutput:
    """A variant's model directory."""
    return StageOutput(f"prune@{name}", OUTPUTS / "models" / name, artifact)


def evaluation_output(name: str, artifact: Artifact) -> StageOutput:
    """A variant's metrics."""
    stage = "evaluate-dense" if name == BASELINE else f"evaluate@{name}"
    return StageOutput(stage, OUTPUTS / "evaluations" / name, artifact)


def tokens_outputs(calibration: Artifact, evaluation: Artifact) -> list[StageOutput]:
    """The token windows of both roles, one stage."""
    folder = OUTPUTS / "tokens"
    return [
        StageOutput("tokens", folder / "calibration", calibration),
        StageOutput("tokens", folder / "evaluation", evaluation),
    ]


def is_repository(workspace: Path) -> bool:
    """Whether the workspace is under DVC."""
    return (workspace / ".dvc").is_dir() and (workspace / "dvc.yaml").is_file()


def place(workspace: Path, store: Store, outputs: list[StageOutput]) -> None:
    """Put copies of the artifacts where dvc.yaml expects them; what is there already stays."""
    for output in outputs:
        store.materialize(output.artifact, workspace / output.path)


def commit(workspace: Path, stages: list[str]) -> None:
    """Record the outputs that lie in the workspace in dvc.lock and DVC's cache, so that `dvc repro` skips them."""
    from dvc.repo import Repo

    with Repo(str(workspace)) as repo:
        for stage in stages:
            repo.commit(stage, force=True)


def output_md5s(workspace: Path) -> dict[str, str]:
    """Path -> DVC's md5 of every output that dvc.lock records."""
    lock = workspace / "dvc.lock"
    if not lock.is_file():
        return {}
    stages: dict[str, Any] = (yaml.safe_load(lock.read_text()) or {}).get("stages", {})
    return {
        out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out
    }
