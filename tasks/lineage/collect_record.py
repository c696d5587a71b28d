"""The record of one variant, which the report shows and MLflow keeps."""

import json
from pathlib import Path
from typing import Any

from pruning_core.settings.recipe import BASELINE
from tasks.lineage.provenance import Lineage, provenance
from tasks.pipeline.recovery import training_text
from tasks.pipeline.variant import Pipeline
from tasks.records.exports import EXPORT, export_size
from tasks.records.variant import ExportSize, Variant, parse
from tasks.steps.allocation import TABLE
from tasks.steps.recover import CURVE
from tasks.steps.samples import read_samples
from tasks.steps.search import RESULT
from tasks.steps.sensitivity import PROFILE
from tasks.steps.source_model import KIND as SOURCE
from tasks.steps.structured_prune import TABLES
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import digest_of
from tasks.store.directories import MANIFEST
from tasks.store.store import Store
from tasks.tracking.comparison_run import KIND
from tasks.tracking.runs import find_runs
from tasks.versioning import evaluation_output, model_output, output_md5s
from tasks.workspace.workspace import Workspace


def variant_record(workspace: Workspace, pipeline: Pipeline, name: str, steps: list[dict[str, Any]]) -> Variant:
    """The record of a variant whose steps are done, with its types checked."""
    model, evaluation, speed = pipeline.model(name), pipeline.quality(name), pipeline.speed(name)
    recipe = {} if name == BASELINE else pipeline.settings.recipe(name).spec
    lineage = Lineage(pipeline.context.store, evaluation)
    record = {
        "name": name,
        "recipe": recipe,
        "model": model.reference(),
        "manifest": _baseline_manifest(pipeline, speed) if name == BASELINE else model.manifest,
        "evaluation": evaluation.reference(),
        "metrics": json.loads((evaluation.path / "metrics.json").read_text()),
        "speed": _rates(speed),
        "judged": answers.facts if (answers := pipeline.lm_eval_answers(name)) else None,
        "samples": _samples(pipeline.samples(name)),
        "exports": exports_of(workspace.root, pipeline.context.store, model),
        "search": _search(lineage),
        "loss_curves": _loss_curves(model),
        "parents": _parents(pipeline, name, lineage),
        "datasets": _datasets(pipeline, name),
        "git_commit": workspace.git_commit(),
        "dvc": _dvc(workspace, name, model, evaluation),
        "steps": steps,
        "provenance": provenance(pipeline.settings, name, lineage),
    }
    return parse(record)


def _samples(artifact: Artifact | None) -> dict[str, Any] | None:
    """The continuations that a variant generated."""
    return artifact and read_samples(artifact) | {"digest": artifact.digest} | artifact.facts


def _search(lineage: Lineage) -> dict[str, Any] | None:
    """The history of the search that found a variant's allocation; None where there was none."""
    allocation = lineage.making.get("allocation")
    file = lineage.artifact(allocation).path / RESULT if allocation else None
    return json.loads(file.read_text()) if file and file.is_file() else None


def texts_of(pipeline: Pipeline, name: str) -> dict[str, Artifact]:
    """Role -> windows that a variant was computed from: "calibration", "recovery"."""
    if name == BASELINE:
        return {}
    recipe = pipeline.settings.recipe(name)
    texts = {"calibration": pipeline.calibration} if recipe.reads_calibration_text else {}
    return texts | ({"recovery": training_text(pipeline, recipe)} if recipe.recovery is not None else {})


def small_files(pipeline: Pipeline, name: str) -> list[Path]:
    """Small files of a variant's steps, for MLflow to show and to draw."""
    lineage = Lineage(pipeline.context.store, pipeline.quality(name))
    made_from = [lineage.artifact(link) for link in lineage.making.values()]
    artifacts = [] if name == BASELINE else [*made_from, pipeline.model(name)]
    # The tables of the model itself stand for those of the model that it was trained from.
    files = {path.name: path for artifact in artifacts for path in artifact.path.iterdir()}
    shown = (TABLE, PROFILE, RESULT, CURVE, *TABLES)
    return sorted(path for path in files.values() if path.name in shown)


def _loss_curves(model: Artifact) -> dict[str, Any]:
    """Part of the model -> points of its training; {} of a model that was not trained."""
    file = model.path / CURVE
    return json.loads(file.read_text()) if file.is_file() else {}


def _rates(speed: Artifact) -> dict[str, Any]:
    facts = speed.facts["speed"]

    def rate(kind: str) -> dict[str, float]:
        measured = facts[kind]
        return {
            "median": measured["median"],
            "low": measured["lower_quartile"],
            "high": measured["upper_quartile"],
        }

    return {"prefill_tokens_per_second": rate("prefill"), "decode_tokens_per_second": rate("decode")}


def _baseline_manifest(pipeline: Pipeline, speed: Artifact) -> dict[str, Any]:
    size = speed.facts["size"]
    source = pipeline.source
    facts = {
        "sparsity": {"prunable": 0.0, "whole_model": size["zero_fraction"]},
        "layers": [],
        "ledger": [],
        "bits_per_weight": {"stored": size["bits_per_weight"], "bitmask": size["bits_per_weight"]},
        "size_bytes": {"stored": size["tensor_bytes"], "bitmask": size["tensor_bytes"]},
    }
    return {
        "kind": source.kind,
        "key": source.key,
        "digest": source.digest,
        "inputs": {},
        "versions": speed.manifest["versions"],
        "facts": facts,
    }


def _parents(pipeline: Pipeline, name: str, lineage: Lineage) -> dict[str, Any]:
    if name == BASELINE:
        return {}
    made_from = {"dense": pipeline.source} | texts_of(pipeline, name) | lineage.making
    parents = {kind: {"digest": one.digest} for kind, one in made_from.items()}
    shared = [block.inputs.get("statistics") for block in lineage.blocks.values()]
    if shared and all(shared):
        parents["statistics"] = {"digest": digest_of([entry["digest"] for entry in shared])}
    return parents


def _datasets(pipeline: Pipeline, name: str) -> dict[str, Any]:
    used = {"evaluation": pipeline.evaluation} | texts_of(pipeline, name)
    return {
        role: {
            "name": f"{tokens.facts['source'].get('name', 'text')}-{role}",
            "digest": tokens.facts["token_digest"],
            "text_digest": tokens.facts["text_digest"],
            "source": tokens.facts["source"],
        }
        for role, tokens in used.items()
    }


def _dvc(workspace: Workspace, name: str, model: Artifact, evaluation: Artifact) -> dict[str, str] | None:
    output = evaluation_output(name, evaluation) if name == BASELINE else model_output(name, model)
    manifest = workspace.root / output.path / MANIFEST
    # With overrides something else lies there.
    if not manifest.is_file() or json.loads(manifest.read_text())["digest"] != output.artifact.digest:
        return None
    md5 = output_md5s(workspace.root).get(output.path.as_posix())
    return {"path": output.path.as_posix(), "md5": md5} if md5 else None


def exports_of(workspace: Path, store: Store, model: Artifact) -> list[ExportSize]:
    """The size of each tracked and stored export of a model, by label; of a label the newest."""
    tags = {KIND: EXPORT, "parent.variant.digest": model.digest}
    facts = {} if model.kind == SOURCE else model.facts
    sizes: dict[str, ExportSize] = {}
    for run in find_runs(workspace, tags):
        artifact, _ = store.check(run["tags"]["export_key"])
        if artifact:
            size = export_size(artifact.facts, facts)
            sizes.setdefault(size.label, size)
    return [sizes[label] for label in sorted(sizes)]
