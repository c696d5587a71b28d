"""The steps of an export: write its files, evaluate it, and measure its speed beside the dense model."""

from dataclasses import asdict
from typing import Any

from pruning_core.checkpoint.model_files import read_config
from pruning_core.evaluation.serving import Load
from pruning_core.settings.recipe import BASELINE
from tasks.machine.hardware import machine
from tasks.pipeline.variant import Pipeline, speed_lengths
from tasks.records.exports import export_label
from tasks.steps.evaluate_export import ENGINES, engine_params, evaluate_export
from tasks.steps.export import ExportParams, export
from tasks.steps.serve_speed import ServeSpeedParams, engine_of, serve_speed
from tasks.store.artifact import Artifact


def export_record(pipeline: Pipeline, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Write, evaluate and measure an export of a variant or of the dense model; returns its record as JSON."""
    label, model = label_of(name, spec), pipeline.model(name)
    exported = pipeline.context.run(export, ExportParams(format=spec), {"model": model}, label)
    variant, dense = pipeline.quality(name), pipeline.quality(BASELINE)
    # As it is read from its files.
    quality = pipeline.beside_dense(exported, label)
    facts = {"export": quality.facts, "variant": variant.facts, "dense": dense.facts}
    engine = engine_of(exported.path)
    if engine in ENGINES:
        inputs = {"model": exported, "tokens": pipeline.evaluation, "baseline": dense}
        params, engine_label = engine_params(engine), f"{label} evaluation by {engine}"
        facts[engine] = pipeline.context.run(evaluate_export, params, inputs, engine_label).facts
    speed = _serving_speed(pipeline, exported, spec["name"], engine, label)
    return {
        "variant": name,
        "recipe": {} if name == BASELINE else pipeline.settings.recipe(name).spec,
        "export": exported.reference(),
        "facts": exported.facts,
        "model": model.reference(),
        "model_facts": {} if name == BASELINE else model.facts,
        "quality": facts,
        "evaluation": quality.reference(),
        "speed": speed.reference(),
        "serving": {key: speed.facts[key] for key in ("rows", "machine", "load")},
        "sizes": speed.facts["bytes"],
    }


def _serving_speed(pipeline: Pipeline, exported: Artifact, format: str, engine: str, label: str) -> Artifact:
    """Speed and memory of an export and of the dense model, taking turns on this machine."""
    config = read_config(pipeline.source.path, trust_remote_code=pipeline.trust)
    params = ServeSpeedParams(
        machine=machine(),
        load=asdict(Load(**speed_lengths(config))),
        engine=engine,
        format=format,
        trust_remote_code=pipeline.trust,
    )
    return pipeline.context.run(serve_speed, params, {"dense": pipeline.source, "export": exported}, f"{label} speed")


def label_of(name: str, spec: dict[str, Any]) -> str:
    """For people: the variant, the format and its options."""
    return f"{name} as {export_label(spec)}"
