"""Variants made and tracked in this process, without Prefect: what commands leave behind, in a fraction of the time."""

import os
import time
from pathlib import Path
from typing import Any

from pruning_core.settings.recipe import BASELINE
from tasks.lineage.collect_record import variant_record
from tasks.pipeline.variant import Pipeline
from tasks.store.directories import RUN
from tasks.tracking.runs import track_variant
from tasks.workspace.workspace import Workspace


def make(
    root: Path, *names: str, overrides: list[str] | None = None, tracked: bool = True
) -> dict[str, dict[str, Any]]:
    """Name -> record of the dense model and these variants; `run_id` is added where they are tracked."""
    workspace = Workspace.open(root, overrides)
    pipeline = Pipeline(workspace.context(), workspace.settings)
    records = {}
    for name in (BASELINE, *names):
        pipeline.quality(name)
        pipeline.speed(name)
        variant = variant_record(workspace, pipeline, name, [])
        records[name] = variant.as_json()
        if tracked:
            records[name]["run_id"] = track_variant(root, variant, []).run_id
    return records


def age(root: Path, days: float = 1.0) -> None:
    """As if everything stored had last been used so many days ago, by processes that ended since."""
    then = time.time() - days * 24 * 60 * 60
    for file in (root / ".espalier" / "objects").glob(f"*/{RUN}"):
        os.utime(file, (then, then))
