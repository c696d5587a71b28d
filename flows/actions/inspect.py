"""Commands that inspect: evaluate any model, explain what would run, trace where a variant comes from."""

import json
from pathlib import Path
from typing import Any

import torch

from flows.console.progress_bars import show_bars
from flows.plan.fit import model_directory
from pruning_core.checkpoint.model_files import read_config
from pruning_core.errors import InputError
from pruning_core.model.coupled_groups import sites_of
from pruning_core.model.skeleton import Skeleton
from pruning_core.settings.recipe import BASELINE
from pruning_core.settings.structured import DEFAULT_FAMILIES
from pruning_core.structured.kept_groups import groups_table
from tasks.engine.explain import explanation
from tasks.engine.look import Look
from tasks.lineage.collect_record import texts_of
from tasks.lineage.provenance import Lineage
from tasks.pipeline.open_pipeline import evaluate_variant, open_pipeline
from tasks.store.artifact import Artifact
from tasks.workspace.workspace import Workspace


def evaluate_directory(path: Path, overrides: list[str] | None, quiet: bool) -> dict[str, Any]:
    """Quality, size and speed of a model directory; with its own tokenizer, on the evaluation text of params.yaml."""
    if not path.is_dir():
        raise InputError(f"there is no model directory {path}; give the folder that holds its config.json")
    given = [*(overrides or []), f"model={json.dumps(str(path.resolve()))}"]
    workspace = Workspace.open(None, given)
    pipeline = open_pipeline(workspace)
    with show_bars(quiet):
        quality = pipeline.quality(BASELINE)
        answers = pipeline.lm_eval_answers(BASELINE)
        speed = pipeline.speed(BASELINE)
    metrics = {name: quality.facts[name] for name in ("perplexity", "mean_loss", "standard_error", "windows", "tokens")}
    return {
        "model": str(pipeline.source.path),
        "digest": pipeline.source.digest,
        "quality": metrics | {"protocol": quality.facts["protocol"]},
        "tasks": answers.facts["tasks"] if answers else {},
        "size": speed.facts["size"],
        "speed": speed.facts["speed"],
    }


def explain_variant(name: str, overrides: list[str] | None) -> list[dict[str, Any]]:
    """Per step of a variant: label, cached, reason; nothing is computed or changed."""
    workspace, look = Workspace.open(None, overrides), Look()
    pipeline = open_pipeline(workspace, look)
    evaluate_variant(pipeline, name)
    lookups = {lookup.call.label: lookup for lookup in look.lookups}
    return [explanation(pipeline.context.store, lookup) for lookup in lookups.values()]


def lineage_of(name: str, overrides: list[str] | None) -> dict[str, Any]:
    """Source checkpoint, texts, blocks, code and libraries of a variant, its evaluation and its MLflow run.

    Raises:
        InputError: the variant was not computed yet.
    """
    missing = [step["label"] for step in explain_variant(name, overrides) if not step["cached"]]
    if missing:
        raise InputError(
            f"{name} is not computed with the present settings ({missing[0]} is missing); "
            f"run: espalier {'compare' if name == BASELINE else f'compress {name}'}"
        )
    workspace = Workspace.open(None, overrides)
    pipeline = open_pipeline(workspace)
    model, quality = pipeline.model(name), pipeline.quality(name)
    lineage = Lineage(workspace.store, quality)
    chain = [_link("source checkpoint", pipeline.source)]
    if name != BASELINE:
        texts = texts_of(pipeline, name)
        made_from = {role: lineage.artifact(link) for role, link in lineage.making.items()}
        compressed = made_from.pop("compressed", None)
        chain += [_link("calibration tokens", texts["calibration"])] if "calibration" in texts else []
        chain += [_link(role, artifact) for role, artifact in made_from.items()]
        chain += [_link(block, lineage.artifact(link)) for block, link in lineage.blocks.items()]
        chain += [_link("compressed", compressed)] if compressed else []
        chain += [_link("recovery tokens", texts["recovery"])] if "recovery" in texts else []
        chain.append(_link("variant", model))
    chain += [_link("evaluation tokens", pipeline.evaluation), _link("evaluation", quality)]
    if (answers := pipeline.lm_eval_answers(name)) is not None:
        chain.append(_link("tasks", answers))
    if (continuations := pipeline.samples(name)) is not None:
        chain.append(_link("samples", continuations))
    result = quality if name == BASELINE else model
    return {
        "variant": name,
        "recipe": {} if name == BASELINE else pipeline.settings.recipe(name).spec,
        "chain": chain,
        "code": result.manifest["source"],
        "versions": result.manifest["versions"],
        "git_commit": workspace.git_commit(),
        "run_id": _run_id(workspace, model, quality),
    }


def _link(what: str, artifact: Artifact) -> dict[str, str]:
    return {"what": what, "digest": artifact.digest, "path": str(artifact.path)}


def _run_id(workspace: Workspace, model: Artifact, quality: Artifact) -> str | None:
    from tasks.tracking.runs import find_runs

    runs = find_runs(workspace.root, {"variant_key": model.key, "evaluation_key": quality.key})
    return runs[0]["run_id"] if runs else None


def groups_of_model(families: list[str] | None, overrides: list[str] | None) -> dict[str, Any]:
    """The coupled groups of each site, as rows for machines and as a table for people.

    Raises:
        InputError: an unknown family, or a model whose channels and heads are not known.
    """
    workspace = Workspace.open(None, overrides)
    trust = workspace.settings.trust_remote_code
    skeleton = Skeleton(read_config(model_directory(workspace), trust_remote_code=trust), torch.float32, trust)
    sites = sites_of(skeleton.blocks, skeleton.block_prefix, families or DEFAULT_FAMILIES)
    rows = [
        {"site": site.name, "family": site.family, "groups": site.groups, "parameters_each": site.group_size}
        for site in sites
    ]
    return {"sites": rows, "table": groups_table(sites)}
