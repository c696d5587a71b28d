"""Pipelines in a workspace whose steps are noted."""

from pathlib import Path

import yaml

from tasks.engine.step import direct
from tasks.engine.step_log import CACHED, StepLog
from tasks.pipeline.open_pipeline import open_pipeline
from tasks.pipeline.variant import Pipeline
from tasks.workspace.workspace import Workspace


def pipeline_of(root: Path, overrides: list[str] | None = None) -> tuple[Pipeline, StepLog]:
    log = StepLog(direct)
    return open_pipeline(Workspace.open(root, overrides), log), log


def computed(log: StepLog) -> list[str]:
    return [record["label"] for record in log.records if record["state"] != CACHED]


def edit(root: Path, variant: str, key: str, value) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["variants"][variant][key] = value
    (root / "params.yaml").write_text(yaml.safe_dump(params))
