"""The flows `compress` (one variant) and `compare` (all variants); every step is a cached Prefect task."""

from pathlib import Path

from prefect import flow

from flows.parallel_variants import make_variants
from pruning_core.errors import ComputationError
from pruning_core.settings.recipe import BASELINE
from tasks.engine.step_log import StepLog
from tasks.lineage.collect_record import small_files, variant_record
from tasks.orchestration.flow_runs import record_owner
from tasks.orchestration.step_tasks import prefect_driver
from tasks.pipeline.open_pipeline import evaluate_variant, open_pipeline
from tasks.pipeline.variant import Pipeline
from tasks.progress import progress
from tasks.records.variant import Variant
from tasks.report.page import write_report
from tasks.tracking.comparison_run import track_comparison
from tasks.tracking.runs import track_variant
from tasks.versioning import (
    StageOutput,
    commit,
    evaluation_output,
    is_repository,
    model_output,
    place,
    place_figures,
    tokens_outputs,
)
from tasks.workspace.workspace import Workspace

REPORT = Path("reports") / "comparison.html"


@flow(name="compress", flow_run_name="compress {variant}")
def compress(variant: str, root: str = ".", overrides: list[str] | None = None) -> list[Variant]:
    """Compress, evaluate, measure and track one variant; returns the records of the baseline and the variant.

    Args:
        variant: its name in params.yaml.
        root: the folder of params.yaml.
        overrides: "a.b=value" on top of it.
    """
    workspace = Workspace.open(Path(root), overrides)
    with record_owner(workspace.root):
        return run_variants(workspace, [variant])


@flow(name="compare")
def compare(root: str = ".", overrides: list[str] | None = None) -> list[Variant]:
    """Compress every variant of params.yaml and write the report; returns the records, the baseline first.

    Args:
        root: the folder of params.yaml.
        overrides: "a.b=value" on top of it.
    """
    workspace = Workspace.open(Path(root), overrides)
    with record_owner(workspace.root):
        records = run_variants(workspace, list(workspace.settings.variants))
        page = write_report(records, workspace.hidden / REPORT, workspace.root)
        track_comparison(workspace.root, page, records)
        return records


def run_variants(workspace: Workspace, names: list[str], failed: dict[str, str] | None = None) -> list[Variant]:
    """Compress, evaluate, measure, version and track variants; returns their records, the baseline first.

    Args:
        failed: where given, a variant that cannot be computed is entered here with the reason and left out, instead
            of ending the run.
    """
    for name in names:
        workspace.settings.recipe(name)
    log = StepLog(prefect_driver)
    pipeline = open_pipeline(workspace, log)
    evaluate_variant(pipeline, BASELINE)
    if workspace.settings.compute.variants is not None and len(names) > 1:
        broken = make_variants(workspace, names, log)
        if broken and failed is None:
            raise ComputationError("; ".join(f"{name}: {why}" for name, why in broken.items()))
        (failed if failed is not None else {}).update(broken)
    for name in names:
        if name in (failed or {}):
            continue
        try:
            evaluate_variant(pipeline, name)
        except ComputationError as error:
            if failed is None:
                raise
            failed[name] = str(error)
    names = [name for name in names if name not in (failed or {})]
    everything = [BASELINE, *names]
    # Speeds are measured one after another, when nothing else of this run is at work.
    for name in everything:
        pipeline.speed(name)
    if is_repository(workspace.root) and not workspace.overrides:
        _version(workspace, pipeline, names)
    records = [variant_record(workspace, pipeline, name, log.about(name)) for name in everything]
    shown = progress("recording in MLflow")
    tracked = []
    for done, record in enumerate(records):
        shown(done, len(records))
        run = track_variant(workspace.root, record, small_files(pipeline, record.name))
        tracked.append(record.model_copy(update={"run_id": run.run_id}))
    shown(len(records), len(records))
    return tracked


def _version(workspace: Workspace, pipeline: Pipeline, names: list[str]) -> None:
    """Record the results as outputs of the DVC stages; with overrides they would not be those of params.yaml."""
    outputs: list[StageOutput] = tokens_outputs(pipeline.calibration, pipeline.evaluation)
    outputs.append(evaluation_output(BASELINE, pipeline.quality(BASELINE)))
    for name in names:
        outputs += [
            model_output(name, pipeline.model(name)),
            evaluation_output(name, pipeline.quality(name)),
        ]
    place(workspace.root, workspace.store, outputs)
    for name in (BASELINE, *names):
        place_figures(workspace.root, name, *pipeline.figures(name))
    stages = list(dict.fromkeys(output.stage for output in outputs))
    commit(workspace.root, stages, progress("versioning with DVC"))
