"""Pipelines in a workspace whose steps are noted."""

from dataclasses import replace
from pathlib import Path

import yaml

from tasks.engine.step_log import CACHED, StepsSeen
from tasks.pipeline.variant import Pipeline
from tasks.workspace.workspace import Workspace


def pipeline_of(root: Path, overrides: list[str] | None = None) -> tuple[Pipeline, StepsSeen]:
    workspace = Workspace.open(root, overrides)
    plain = workspace.context()
    seen = StepsSeen(plain.run)
    return Pipeline(replace(plain, run=seen), workspace.settings), seen


def computed(seen: StepsSeen) -> list[str]:
    return [record["label"] for record in seen.records if record["state"] != CACHED]


def edit(root: Path, variant: str, key: str, value) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["variants"][variant][key] = value
    (root / "params.yaml").write_text(yaml.safe_dump(params))
