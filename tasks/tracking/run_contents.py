"""The content of a variant's MLflow run: parameters, metrics, tags and a description, as plain values.

Few headline metrics with short names, so that the run list reads as a table; the per-layer ones share a
prefix, which the UI folds into sections of their own.
"""

import json
import math
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tasks.records.comparison import row
from tasks.records.model_facts import experts_together
from tasks.records.variant import ExportSize, Variant, command
from tasks.tracking import run_files
from tasks.tracking.run_index import FINISHED, VIEW, Run

HEADLINE = (
    "perplexity",
    "loss_increase",
    "kl_to_dense",
    "accuracy",
    "sparsity",
    "sparsity_whole_model",
    "bits_per_weight",
    "size_mb",
    "prefill_tok_s",
    "decode_tok_s",
)


def params(recipe: dict[str, Any]) -> dict[str, str]:
    """The recipe flattened: a method's name stands under the method's own key, its fields below it.

    {"pattern": {"name": "n_of_m", "n": 2, "m": 4}} becomes pattern=n_of_m, pattern.n=2, pattern.m=4.
    """
    return {name: str(value) for name, value in _flat(recipe, "")}


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield name, value
        return
    for key, item in value.items():
        yield from _flat(item, name if key == "name" and name else f"{name}.{key}".lstrip("."))


def headline(variant: Variant) -> dict[str, float]:
    """The metrics that variants are compared by, to six digits (the exact ones are in the artifacts).

    What is not known is left out. size_mb is in 10^6 bytes. MLflow shows every digit that it is given.
    """
    figures = row(variant)
    values = {name: figures.get(name) for name in HEADLINE} | {
        "size_mb": None if figures["size_bytes"] is None else figures["size_bytes"] / 1e6,
        "prefill_tok_s": figures["prefill_tokens_per_second"],
        "decode_tok_s": figures["decode_tokens_per_second"],
        # A perplexity beyond every float must sort last, not look unmeasured.
        "perplexity": math.inf if figures["perplexity"] is None else figures["perplexity"],
    }
    return {name: float(f"{value:.6g}") for name, value in values.items() if value is not None}


def layer_metrics(variant: Variant) -> Iterator[tuple[str, float, int]]:
    """(name, value, block index) of each layer's loss and sparsity: a curve over depth per kind, experts together."""
    for layer in experts_together(variant.facts.layers):
        block, module = layer.place
        for name, value in (("layer_loss", layer.loss), ("layer_sparsity", layer.sparsity)):
            if value is not None:
                yield f"{name}/{module}", value, block or 0


def search_metrics(variant: Variant) -> Iterator[tuple[str, float, int]]:
    """(name, value, generation) of the search that found the variant's allocation, where there was one."""
    for entry in variant.search.history if variant.search else ():
        for name in ("fitness", "validation", "best", "tokens"):
            yield f"search/{name}", float(getattr(entry, name)), entry.generation


def loss_metrics(variant: Variant) -> Iterator[tuple[str, float, int]]:
    """(name, value, step) of every point of the variant's training, where there was one."""
    for part, points in variant.loss_curves.items():
        place = "recovery" if part == "model" else f"recovery/{part}"
        for point in points:
            point_metrics = {"train_loss": point.train_loss, "learning_rate": point.learning_rate}
            point_metrics["validation_loss"] = point.validation_loss
            yield from (
                (f"{place}/{name}", value, point.step) for name, value in point_metrics.items() if value is not None
            )


def lm_eval_metrics(variant: Variant) -> dict[str, float]:
    """Accuracy on each lm-eval task, and its difference to the dense model's."""
    metrics = {}
    for name, result in (variant.judged.tasks if variant.judged else {}).items():
        metrics[f"accuracy/{name}"] = result.accuracy
        if result.accuracy_norm is not None:
            metrics[f"accuracy_norm/{name}"] = result.accuracy_norm
        if (paired := result.to_dense.get("accuracy")) and not variant.is_baseline:
            metrics[f"accuracy_difference/{name}"] = paired.difference
    return {name: float(f"{value:.6g}") for name, value in metrics.items()}


def export_metrics(exports: Iterable[ExportSize]) -> dict[str, float]:
    """Megabytes and bits per weight of each export of a variant."""
    metrics = {}
    for export in exports:
        # MLflow takes no = in a name.
        place = f"export/{export.label.replace('=', ' ')}"
        metrics |= {f"{place}/size_mb": export.file_bytes / 1e6, f"{place}/bits_per_weight": export.bits_per_weight}
    return {name: float(f"{value:.6g}") for name, value in metrics.items()}


def quality(variant: Variant) -> dict[str, float]:
    """Every metric that is one number: the headline ones, and those of lm-eval tasks, exports and samples."""
    metrics = headline(variant) | lm_eval_metrics(variant) | export_metrics(variant.exports)
    return metrics | ({"greedy_agreement": float(f"{variant.samples.agreement:.6g}")} if variant.samples else {})


def tags(variant: Variant, workspace: Path) -> dict[str, str]:
    """The tags that identify the run and its origins; what is not known is left out."""
    values = {
        **identity(variant),
        "role": "baseline" if variant.is_baseline else "variant",
        "artifact.path": _inside(variant.model.path, workspace),
        "artifact.digest": variant.model.digest,
        "evaluation.digest": variant.evaluation.digest,
        "evaluation.protocol": variant.protocol_digest,
        "code.digest": variant.manifest.source,
        "git.commit": variant.git_commit,
        "mlflow.source.git.commit": variant.git_commit,
        "mlflow.source.name": f"espalier compress {shlex.quote(variant.name)}",
        "mlflow.source.type": "LOCAL",
        "dvc.md5": variant.dvc and variant.dvc.md5,
        "dvc.path": variant.dvc and variant.dvc.path,
        "mlflow.note.content": description(variant),
        **run_files.sample_tags(variant.samples),
        **{f"parent.{kind}.digest": digest for kind, digest in variant.parent_digests().items()},
    }
    return {name: value for name, value in values.items() if value}


def identity(variant: Variant) -> dict[str, str]:
    """The tags that only this variant's run has."""
    return {
        "variant": variant.name,
        "variant_key": variant.model.key or variant.model.digest,
        "evaluation_key": variant.evaluation.key or variant.evaluation.digest,
    }


def parent_runs(variant: Variant, runs: list[Run]) -> dict[str, str]:
    """The dense baseline's run, where it was tracked before."""
    dense = variant.parent_digests().get("dense")
    for run in runs:
        tags = run["tags"]
        if variant.is_baseline or run["status"] != FINISHED or tags.get("role") != "baseline":
            continue
        same = dense in (tags.get("artifact.digest"), tags.get("parent.dense.digest"))
        if dense and same and tags.get("evaluation.protocol") == variant.protocol_digest:
            return {"parent.dense.run_id": run["run_id"]}
    return {}


def missing(run: Run, variant: Variant, tags: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What a run that was tracked before lacks, the path of an artifact that has moved, other samples and exports."""
    recorded = run["tags"]
    changed = {"greedy_agreement"} if recorded.get(run_files.SAMPLES_TAG) != tags.get(run_files.SAMPLES_TAG) else set()
    changed |= {k for k, v in export_metrics(variant.exports).items() if run["metrics"].get(k) != v}
    moved = {"artifact.path", run_files.SAMPLES_TAG}
    return {
        "tags": {k: v for k, v in tags.items() if k not in recorded or (k in moved and recorded[k] != v)},
        "metrics": {k: v for k, v in quality(variant).items() if k not in run["metrics"] or k in changed},
    }


def summary(variant: Variant) -> str:
    """One line: what was done to the model and what it cost."""
    figures = row(variant)
    perplexity = figures["perplexity"]
    parts = [f"perplexity {perplexity:.4g}" if perplexity else "perplexity beyond every float"]
    if variant.is_baseline:
        return f"The dense baseline: {parts[0]}."
    if figures["loss_increase"] is not None:
        error = figures["loss_increase_error"]
        parts.append(f"{figures['loss_increase']:+.4f}{f' ± {error:.4f}' if error else ''} nats against dense")
    if figures["sparsity"]:
        parts.append(f"{figures['sparsity']:.1%} of the prunable weights removed")
    return ", ".join(parts).capitalize() + "."


def description(variant: Variant) -> str:
    """The run's page in Markdown: result, recipe, how to get it back, and every fallback."""
    lines = [summary(variant), "", f"Get it back: `{command(variant)}`", ""]
    if variant.recipe:
        lines += ["```yaml", yaml.safe_dump(variant.recipe, sort_keys=False).rstrip(), "```", ""]
    if variant.model.path:
        lines += [f"Model: `{variant.model.path}` (digest `{variant.model.digest[:12]}`)"]
    if variant.facts.allocation:
        lines += ["", f"Allocation {variant.facts.allocation}"]
    if variant.facts.recovery:
        lines += ["", f"Recovery: {variant.facts.recovery}"]
    cached = sum(stage.state == "Cached" for stage in variant.steps)
    if variant.steps:
        lines += ["", f"{len(variant.steps)} steps, {cached} of them taken from the cache."]
    if variant.facts.ledger:
        lines += ["", f"**{len(variant.facts.ledger)} fallbacks**, see `manifest.json`:", ""]
        lines += [f"- {entry.get('layer', '')}: {entry.get('event', '')}" for entry in variant.facts.ledger[:20]]
    return "\n".join(lines)[:7900]


def _inside(path: str | None, workspace: Path) -> str | None:
    """Relative to the workspace where it lies inside, so that a moved workspace keeps its runs right."""
    if path is None:
        return None
    absolute, root = Path(path).absolute(), Path(workspace).absolute()
    return str(absolute.relative_to(root)) if absolute.is_relative_to(root) else str(absolute)


def experiment_tags() -> dict[str, str]:
    """What the experiment's page shows, and a saved view of its run list that reads as a comparison."""
    shown = {f"metrics.`{name}`": name for name in HEADLINE}
    shown |= {f"params.`{name}`": name for name in ("saliency", "pattern", "sparsity", "compensation")}
    view = {
        "selectedColumns": list(shown),
        "columnOrder": list(shown),
        # Pixels: room for the name and the sorting arrow.
        "columnWidths": {column: 8 * len(name) + 36 for column, name in shown.items()},
        "orderByKey": "metrics.`perplexity`",
        "orderByAsc": True,
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": "One run per variant; the dense baseline has the tag `role=baseline`. Runs with the tag "
        "`kind=comparison` have the report of several variants under Artifacts.",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
    }
