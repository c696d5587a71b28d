"""All that is known of one variant, as JSON: what the report shows and MLflow keeps."""

import json
from pathlib import Path
from typing import Any

from pruning_core.recipe import BASELINE
from tasks.allocation import TABLE
from tasks.artifact import Artifact
from tasks.canonical import digest_of
from tasks.pipeline import Pipeline
from tasks.search import RESULT
from tasks.sensitivity import PROFILE
from tasks.versioning import evaluation_output, model_output, output_md5s
from tasks.workspace import Workspace


def variant_record(workspace: Workspace, pipeline: Pipeline, name: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of a variant whose steps are done; see `tasks.report` for what reads it."""
    model, evaluation, speed = pipeline.model(name), pipeline.evaluated(name), pipeline.measured(name)
    recipe = {} if name == BASELINE else pipeline.settings.recipe(name).spec
    return {
        "name": name,
        "recipe": recipe,
        "model": model.reference(),
        "manifest": _baseline_manifest(pipeline, speed) if name == BASELINE else model.manifest,
        "evaluation": evaluation.reference(),
        "metrics": json.loads((evaluation.path / "metrics.json").read_text()),
        "speed": _rates(speed),
        "search": _search(pipeline, name),
        "parents": _parents(pipeline, name, model),
        "datasets": _datasets(pipeline, name),
        "git_commit": workspace.git_commit(),
        "dvc": _dvc(workspace, name, model, evaluation),
        "steps": steps,
    }


def _search(pipeline: Pipeline, name: str) -> dict[str, Any] | None:
    """How the search went that found a variant's allocation."""
    found = allocation_chain(pipeline, name).get("allocation")
    written = found.path / RESULT if found else None
    return json.loads(written.read_text()) if written and written.is_file() else None


def allocation_chain(pipeline: Pipeline, name: str) -> dict[str, Artifact]:
    """What decided how much of each matrix goes: {"sensitivity" where one was measured, of a search with the number
    of the start that it served, "allocation"}; {} where the method did."""
    decided = None if name == BASELINE else pipeline.allocation(name)
    if decided is None:
        return {}
    entries = decided.manifest["inputs"].items()
    chain = {kind: pipeline.context.store.find(e["key"]) for kind, e in entries if kind.startswith("sensitivity")}
    return chain | {"allocation": decided}


def small_files(pipeline: Pipeline, name: str) -> list[Path]:
    """The plots and tables of a variant's allocation, for MLflow to show."""
    files = [path for artifact in allocation_chain(pipeline, name).values() for path in artifact.path.iterdir()]
    return sorted(path for path in files if path.suffix in (".svg", ".html") or path.name in (TABLE, PROFILE))


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


def _parents(pipeline: Pipeline, name: str, model: Artifact) -> dict[str, Any]:
    if name == BASELINE:
        return {}
    parents: dict[str, Any] = {"dense": {"digest": pipeline.source.digest}}
    if pipeline.settings.recipe(name).reads_calibration_text:
        parents["calibration"] = {"digest": pipeline.calibration.digest}
    for kind, artifact in allocation_chain(pipeline, name).items():
        parents[kind] = {"digest": artifact.digest}
    blocks = [entry for key, entry in model.manifest["inputs"].items() if key.startswith("block-")]
    shared = [pipeline.context.store.find(block["key"]).manifest["inputs"].get("statistics") for block in blocks]
    if all(shared):
        parents["statistics"] = {"digest": digest_of([entry["digest"] for entry in shared])}
    return parents


def _datasets(pipeline: Pipeline, name: str) -> dict[str, Any]:
    used = {"evaluation": pipeline.evaluation}
    if name != BASELINE and pipeline.settings.recipe(name).reads_calibration_text:
        used["calibration"] = pipeline.calibration
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
    md5 = output_md5s(workspace.root).get(output.path.as_posix())
    return {"path": output.path.as_posix(), "md5": md5} if md5 else None
