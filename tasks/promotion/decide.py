"""The champion: check the variants of a run by the gates, register them, and promote the best that passes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pruning_core.errors import InputError
from pruning_core.settings.recipe import BASELINE
from tasks.engine.look import Look
from tasks.pipeline.open_pipeline import open_pipeline
from tasks.pipeline.variant import Pipeline
from tasks.promotion.decision_log import Decision, find_decision, write_decision
from tasks.promotion.gates import Champion, Verdict, check_gates
from tasks.records.comparison import comparable
from tasks.records.variant import Variant, parse
from tasks.steps.source_model import source_model
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import digest_of
from tasks.store.locks import locked
from tasks.tracking import model_registry
from tasks.tracking.model_registry import Version
from tasks.workspace.workspace import Workspace


@dataclass(frozen=True)
class GatedVariant:
    """A variant with the verdicts of the gates; `error` where it could not be computed."""

    name: str
    variant: Variant | None
    verdicts: list[Verdict]
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether it may become champion."""
        return self.variant is not None and all(verdict.passed for verdict in self.verdicts)


def scheduled_names(workspace: Workspace) -> list[str]:
    """The variants that the schedule makes."""
    return workspace.settings.schedule.variants or list(workspace.settings.variants)


def stored_evaluations(workspace: Workspace) -> dict[str, Artifact | None]:
    """Name -> its evaluation with the present source, settings and code, None where that is not computed yet."""
    pipeline = open_pipeline(workspace, Look())
    return {name: pipeline.quality(name) for name in (BASELINE, *scheduled_names(workspace))}


def stored_answers(workspace: Workspace) -> dict[str, Artifact | None]:
    """ "NAME tasks" -> its answers to the lm-eval tasks, likewise; empty where there are none."""
    if not workspace.settings.evaluation.tasks:
        return {}
    pipeline = open_pipeline(workspace, Look())
    return {f"{name} tasks": pipeline.lm_eval_answers(name) for name in (BASELINE, *scheduled_names(workspace))}


def standing_decision(workspace: Workspace) -> Decision | None:
    """The decision that stands, where source, settings, code and gates are those that it was made with."""
    artifacts = stored_evaluations(workspace) | stored_answers(workspace)
    if not all(artifacts.values()):
        return None
    return find_decision(workspace.root, decision_key(workspace, {n: a.key for n, a in artifacts.items()}))


def decision_key(workspace: Workspace, evaluations: Mapping[str, str | None]) -> str:
    """A digest of what a decision depends on: the gates and the evaluations' keys, which hold all the rest.

    The champion is not in it: who moves the alias by hand is not overruled until there is something new.
    """
    schedule = workspace.settings.schedule
    gates = asdict(schedule.gates)
    return digest_of({"gates": gates, "model": registered_name(workspace), "evaluations": dict(evaluations)})


def registered_name(workspace: Workspace) -> str:
    """The registered model's name."""
    return workspace.settings.schedule.model or model_registry.model_name(workspace.settings.model)


def decide(
    workspace: Workspace,
    pipeline: Pipeline,
    variants: list[Variant],
    failed: Mapping[str, str],
    pushed: Mapping[str, Any],
) -> tuple[Decision, bool]:
    """Check the gates, register the variants, promote the best, and write the decision; (it, whether it is new).

    Of several that pass the one with the lowest loss is champion, the smaller one where two are equal.

    Args:
        pipeline: evaluates the present champion beside the variants.
        variants: the dense baseline among them.
        failed: variant -> why it could not be computed.
        pushed: what DVC sent where.
    """
    dense, *variants = comparable(variants)
    keys = {variant.name: variant.evaluation.key for variant in (dense, *variants)} | dict.fromkeys(failed)
    keys |= {name: answers and answers.key for name, answers in stored_answers(workspace).items()}
    key, name = decision_key(workspace, keys), registered_name(workspace)
    # One at a time: the champion that the variants are compared with is the one that they replace.
    with locked(workspace.hidden / "locks" / "decision"):
        if standing := find_decision(workspace.root, key):
            return standing, False
        before = model_registry.present(workspace.root, name)
        rival = _evaluate_champion(pipeline, before) if before and workspace.settings.schedule.gates.champion else None
        gated = [
            GatedVariant(v.name, v, check_gates(workspace.settings.schedule.gates, v, dense, rival)) for v in variants
        ]
        gated += [GatedVariant(variant, None, [], error) for variant, error in failed.items()]
        versions = {one.name: _register(workspace, name, one, pipeline) for one in gated if one.variant}
        best = _best(gated)
        moved = best is not None and (before is None or versions[best.name].version != before.version)
        if moved:
            model_registry.promote(workspace.root, name, versions[best.name])
        after = versions[best.name] if best else before
        decision = {
            "key": key,
            "decided": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": name,
            "source": _source(pipeline),
            "protocol": dense.protocol_digest,
            "gates": asdict(workspace.settings.schedule.gates),
            "champion": {"before": before and before.facts(), "after": after and after.facts()},
            "moved": moved,
            "dvc": dict(pushed),
            "variants": [_entry(one, versions.get(one.name)) for one in gated],
        }
        return write_decision(workspace.root, decision), True


def _best(gated: list[GatedVariant]) -> GatedVariant | None:
    def rank(one: GatedVariant) -> tuple[float, float]:
        losses = one.variant.metrics.mean_loss
        return (float("inf") if losses is None else losses, one.variant.size_bytes or float("inf"))

    return min((one for one in gated if one.passed), key=rank, default=None)


def _evaluate_champion(pipeline: Pipeline, version: Version) -> Champion:
    """The present champion, evaluated on the text of this run."""
    facts = version.facts()
    identity = {"version": facts["version"], "name": facts["variant"], "digest": facts["digest"]}
    model = pipeline.context.store.find(version.tags["variant_key"]) if version.tags.get("variant_key") else None
    if model is None:
        return Champion(**identity, problem="its model is not in the store any more; move the alias by hand")
    try:
        quality = pipeline.beside(model, "champion")
    except InputError as error:
        return Champion(**identity, problem=f"it cannot be evaluated on this text: {error}")
    beside = parse(
        {"name": "champion", "model": model.reference(), "evaluation": quality.reference(), "metrics": quality.facts}
    )
    return Champion(**identity, losses=beside.window_losses(), protocol=beside.protocol_digest)


def _register(workspace: Workspace, name: str, gated: GatedVariant, pipeline: Pipeline) -> Version:
    tags = {f"gate.{verdict.gate}": _verdict_text(verdict) for verdict in gated.verdicts}
    tags |= {"decision": "passed" if gated.passed else "failed", "source.digest": pipeline.source.digest}
    lines = [_verdict_text(verdict, name=True) for verdict in gated.verdicts] or ["no gate is set"]
    return model_registry.register(workspace.root, name, gated.variant, tags, "\n".join(f"- {line}" for line in lines))


def _verdict_text(verdict: Verdict, name: bool = False) -> str:
    return f"{f'{verdict.gate} ' if name else ''}{'passed' if verdict.passed else 'failed'}: {verdict.reason}"


def _entry(gated: GatedVariant, version: Version | None) -> dict[str, Any]:
    variant = gated.variant
    return {
        "name": gated.name,
        "passed": gated.passed,
        "error": gated.error,
        "version": version and version.version,
        "digest": variant and variant.model.digest,
        "path": variant and variant.model.path,
        "perplexity": variant and variant.metrics.perplexity,
        "gates": [verdict.facts() for verdict in gated.verdicts],
    }


def _source(pipeline: Pipeline) -> dict[str, Any]:
    source = source_model(pipeline.context.workspace, pipeline.settings)
    return {"model": pipeline.settings.model, "digest": source.digest, "revision": source.identity["revision"]}
