"""The flow `sweep`: many variants over shared statistics; a failed variant does not stop the others."""

from pathlib import Path
from typing import Any

from prefect import flow

from flows.parallel_variants import make_variants, reason
from flows.sweep_variants import Axes, expand_sweep
from pruning_core.settings.recipe import BASELINE
from tasks.engine.step_log import StepLog
from tasks.lineage.collect_record import small_files, variant_record
from tasks.orchestration.flow_runs import record_owner
from tasks.orchestration.step_tasks import prefect_driver
from tasks.pipeline.open_pipeline import evaluate_variant, open_pipeline
from tasks.pipeline.variant import Pipeline
from tasks.records.variant import Variant
from tasks.report.page import write_report
from tasks.tracking.comparison_run import track_comparison
from tasks.tracking.runs import track_variant
from tasks.workspace.workspace import Workspace

REPORT = Path("reports") / "sweep.html"


@flow(name="sweep")
def sweep(root: str = ".", overrides: list[str] | None = None, axes: Axes | None = None) -> dict[str, Any]:
    """Compress every combination of the axes; each is evaluated, measured and tracked at once.

    Args:
        root: the folder of params.yaml.
        overrides: "a.b=value" on top of it.
        axes: methods, sparsities, patterns and bits; see `pruning_core.settings.sweep.Sweep`.

    Returns:
        records (the baseline first), skipped [(combination, reason)], failed {name: reason}, report (its path).
    """
    workspace, skipped = expand_sweep(Workspace.open(Path(root), overrides), axes or {})
    with record_owner(workspace.root):
        log = StepLog(prefect_driver)
        pipeline = open_pipeline(workspace, log)
        records = [_finish(workspace, pipeline, log, BASELINE)]
        names = list(workspace.settings.variants)
        side_by_side = workspace.settings.compute.variants is not None and len(names) > 1
        failed = make_variants(workspace, names, log, axes or {}) if side_by_side else {}

        # A run of its own for each variant: whatever ends it, Prefect keeps the state and the sweep goes on.
        @flow(name="variant of a sweep", flow_run_name="{name}", persist_result=False)
        def variant(name: str) -> None:
            with record_owner(workspace.root):
                records.append(_finish(workspace, pipeline, log, name))

        for name in [name for name in names if name not in failed]:
            state = variant(name, return_state=True)
            if not state.is_completed():
                failed[name] = reason(state.result(raise_on_failure=False), workspace.hidden)
        report = write_report(records, workspace.hidden / REPORT, workspace.root)
        track_comparison(workspace.root, report, records)
    return {"records": records, "skipped": skipped, "failed": failed, "report": str(report)}


def _finish(workspace: Workspace, pipeline: Pipeline, log: StepLog, name: str) -> Variant:
    """Compress, evaluate, measure and track one variant; its speed is measured while nothing else of the sweep runs."""
    evaluate_variant(pipeline, name)
    pipeline.speed(name)
    record = variant_record(workspace, pipeline, name, log.about(name))
    run = track_variant(workspace.root, record, small_files(pipeline, name))
    return record.model_copy(update={"run_id": run.run_id})
