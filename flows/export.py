"""The flow `export`: write a variant for serving with its model card, evaluate it and measure its speed."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from prefect import flow

from flows.actions.inspect import lineage_of
from flows.compress import run_variants
from pruning_core.errors import InputError
from pruning_core.settings.recipe import BASELINE
from tasks.engine.step_log import StepLog
from tasks.orchestration.flow_runs import record_owner
from tasks.orchestration.step_tasks import prefect_driver
from tasks.pipeline.export import export_record
from tasks.pipeline.open_pipeline import open_pipeline
from tasks.report.export_card import card
from tasks.store.directories import MANIFEST, RUN
from tasks.tracking.export_run import track_export
from tasks.versioning import OUTPUTS
from tasks.workspace.workspace import Workspace

CARD, FACTS = "README.md", "export.json"


@flow(name="export", flow_run_name="export {variant} as {format[name]}")
def export(
    variant: str, format: dict[str, Any], to: str | None = None, root: str = ".", overrides: list[str] | None = None
) -> dict[str, Any]:
    """Compress, export, verify, evaluate, measure and track one variant; returns the record of the export.

    Args:
        variant: its name in params.yaml, or `dense`.
        format: {name, options}.
        to: the directory to write; by default below artifacts/exports.
        root: the folder of params.yaml.
        overrides: "a.b=value" on top of it.
    """
    workspace = Workspace.open(Path(root), overrides)
    target = target_of(workspace, variant, format, to)
    with record_owner(workspace.root):
        pipeline = open_pipeline(workspace, StepLog(prefect_driver))
        # Tracked too, so that the run of the export has that of its variant above it.
        run_variants(workspace, [] if variant == BASELINE else [variant])
        record = export_record(pipeline, variant, format)
        record["lineage"] = {
            key: value
            for key, value in lineage_of(variant, overrides).items()
            if key in ("chain", "code", "versions", "git_commit")
        }
        place(Path(record["export"]["path"]), target, record)
        record["run_id"] = track_export(workspace.root, record, target / CARD).run_id
        return record | {"path": str(target)}


def target_of(workspace: Workspace, variant: str, format: dict[str, Any], to: str | None) -> Path:
    """The directory of the export.

    Raises:
        InputError: something else lies there.
    """
    named = "-".join(str(part) for part in format.values())
    target = Path(to).expanduser().absolute() if to else workspace.root / OUTPUTS / "exports" / variant / named
    if target.exists() and not (target / FACTS).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} holds something that is no export; give another directory with --to, or empty it")
    return target


def place(source: Path, target: Path, record: dict[str, Any]) -> None:
    """Copy an export and write its card; the complete directory replaces an earlier export in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        new = Path(folder) / "new"
        shutil.copytree(source, new, ignore=shutil.ignore_patterns(MANIFEST, RUN), copy_function=shutil.copyfile)
        (new / CARD).write_text(card(record), encoding="utf-8")
        (new / FACTS).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if target.exists():
            target.rename(Path(folder) / "old")
        new.replace(target)
