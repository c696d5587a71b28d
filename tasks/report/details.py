"""The details of each variant: recipe, lineage, ledger, layers and steps."""

from typing import Any

import yaml

from tasks.records.variant import StepRun, Variant, command
from tasks.report.drawings import draw_layers
from tasks.report.lineage import chain


def details(variant: Variant) -> dict[str, Any]:
    """The variant's fold of the report, as text; "chart" is an SVG."""
    from markupsafe import Markup

    return {
        "name": variant.name,
        "baseline": variant.is_baseline,
        "command": command(variant),
        "recipe": yaml.safe_dump(variant.recipe, sort_keys=False).rstrip() if variant.recipe else None,
        "chain": chain(variant),
        "lineage": {name: value for name, value in _lineage(variant).items() if value},
        "ledger": [_entry(entry) for entry in variant.facts.ledger],
        "steps": [_step(step) for step in variant.steps],
        "cached": sum(step.state == "Cached" for step in variant.steps),
        "chart": Markup(draw_layers(variant.facts.layers) or ""),
    }


def texts(variant: Variant) -> dict[str, str]:
    """The texts that a variant was calibrated, trained and evaluated on, with their digests."""
    return {f"{use} text": f"{text.name}, {text.digest}" for use, text in variant.datasets.items() if text}


def _lineage(variant: Variant) -> dict[str, str | None]:
    return {
        "model": variant.model.digest,
        **{f"{kind} (parent)": digest for kind, digest in variant.parent_digests().items()},
        **texts(variant),
        "allocated": str(variant.facts.allocation or ""),
        "recovery": str(variant.facts.recovery or ""),
        "evaluation": variant.evaluation.digest,
        "code": variant.manifest.source,
        "git commit": variant.git_commit,
        "DVC": variant.dvc and f"{variant.dvc.md5} ({variant.dvc.path})",
        "MLflow run": variant.run_id,
        "path": variant.model.path,
        "libraries": ", ".join(f"{name} {version}" for name, version in variant.manifest.versions.items()),
    }


def _entry(entry: dict[str, Any]) -> tuple[str, str, str]:
    rest = {name: value for name, value in entry.items() if name not in ("layer", "event")}
    return str(entry.get("layer", "")), str(entry.get("event", "")), ", ".join(f"{k} {v}" for k, v in rest.items())


def _step(step: StepRun) -> tuple[str, str, str]:
    return step.label or step.name, step.state, "" if step.seconds is None else f"{step.seconds:.2f}"
