"""Which steps make and judge an export: the files, their quality beside the dense model, their speed beside it."""

from dataclasses import asdict
from typing import Any

from pruning_core.evaluation.serving import Load
from pruning_core.model_files import read_config
from pruning_core.recipe import BASELINE
from tasks.artifact import Artifact
from tasks.evaluate_llama_cpp import evaluate_llama_cpp, version
from tasks.export import export
from tasks.pipeline import Pipeline, machine, speed_lengths
from tasks.serve_speed import engine_of, serve_speed


def exported(pipeline: Pipeline, name: str, spec: dict[str, Any]) -> Artifact:
    """The deployable directory of a variant, or of the dense model."""
    return pipeline.context.run(export, {"format": spec}, {"model": pipeline.model(name)}, label_of(name, spec))


def judged_export(pipeline: Pipeline, name: str, spec: dict[str, Any]) -> Artifact:
    """The quality of an export as it is read from its files, on the evaluation windows, beside the dense model."""
    return pipeline.beside_dense(exported(pipeline, name, spec), label_of(name, spec))


def judged_by_server(pipeline: Pipeline, name: str, spec: dict[str, Any]) -> Artifact | None:
    """The quality of an export as llama.cpp runs it; None where it does not."""
    made = exported(pipeline, name, spec)
    if engine_of(made.path) != "llama.cpp":
        return None
    inputs = {"model": made, "tokens": pipeline.evaluation, "baseline": pipeline.evaluated(BASELINE)}
    label = f"{label_of(name, spec)} evaluation by llama.cpp"
    return pipeline.context.run(evaluate_llama_cpp, {"llama_cpp": version()}, inputs, label)


def served(pipeline: Pipeline, name: str, spec: dict[str, Any]) -> Artifact:
    """Speed and memory of an export and of the dense model, taking turns on this machine."""
    config = read_config(pipeline.source.path, trust_remote_code=pipeline.trust)
    made = exported(pipeline, name, spec)
    params = {
        "machine": machine(),
        "load": asdict(Load(**speed_lengths(config))),
        "trust_remote_code": pipeline.trust,
        "engine": engine_of(made.path),
        "format": spec["name"],
    }
    return pipeline.context.run(
        serve_speed, params, {"dense": pipeline.source, "export": made}, label_of(name, spec) + " speed"
    )


def label_of(name: str, spec: dict[str, Any]) -> str:
    """For people: the variant, the format and its options."""
    options = "".join(f" {key}={value}" for key, value in spec.items() if key != "name")
    return f"{name} as {spec['name']}{options}"


def export_record(pipeline: Pipeline, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """All that is known of an export whose steps are done, as JSON."""
    made, quality, speed = (
        exported(pipeline, name, spec),
        judged_export(pipeline, name, spec),
        served(pipeline, name, spec),
    )
    model, own, dense = pipeline.model(name), pipeline.evaluated(name), pipeline.evaluated(BASELINE)
    run_by = judged_by_server(pipeline, name, spec)
    return {
        "variant": name,
        "recipe": {} if name == BASELINE else pipeline.settings.recipe(name).spec,
        "export": made.reference(),
        "facts": made.facts,
        "model": model.reference(),
        "model_facts": {} if name == BASELINE else model.facts,
        "quality": {"export": quality.facts, "variant": own.facts, "dense": dense.facts}
        | ({"llama.cpp": run_by.facts} if run_by else {}),
        "evaluation": quality.reference(),
        "speed": speed.reference(),
        "serving": {"rows": speed.facts["rows"], "machine": speed.facts["machine"], "load": speed.facts["load"]},
        "sizes": speed.facts["bytes"],
    }
