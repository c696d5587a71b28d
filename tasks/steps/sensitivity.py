"""Step: measure how sensitive the matrices of a model are; every allocation that needs it shares the result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning_core.compress.shares import matrices_of
from pruning_core.model.decoder import Decoder
from pruning_core.model.whole_model import load_whole
from pruning_core.sensitivity import SENSITIVITIES, Sensitivity, SensitivityInputs, Statistics
from pruning_core.settings.compute import Running
from pruning_core.settings.method import build_method
from tasks.engine.step import Context, step
from tasks.progress import progress
from tasks.steps.hidden_states import decoder_of, exclusive, load_tokens
from tasks.steps.prune_block import method_modules
from tasks.steps.running import OnDevice
from tasks.steps.statistics import load_statistics
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import write_json

PROFILE = "profile.json"


@dataclass(frozen=True, kw_only=True)
class SensitivityParams(OnDevice):
    """`sensitivity` as in an allocation; `method` as in a recipe, where the sensitivity prunes."""

    sensitivity: dict[str, Any]
    method: dict[str, Any] | None = None


def sensitivity_modules(params: SensitivityParams) -> list[str]:
    """The modules of the sensitivity and, where it prunes, of the method that these params choose."""
    modules = [SENSITIVITIES.module(params.sensitivity["name"])]
    return [*modules, *method_modules(params.method, params.device)] if params.method else modules


@step("sensitivity", modules=sensitivity_modules)
def sensitivity(params: SensitivityParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """The profile of a model.

    inputs: source; tokens, and statistics-0, statistics-1, ... of the dense model's blocks, where it looks at them.
    writes: profile.json (`pruning_core.sensitivity.Profile`).
    """
    measure = SENSITIVITIES.build(params.sensitivity)
    with exclusive:
        sensitivity_inputs = _sensitivity_inputs(measure, params, inputs)
        profile = measure.measure(sensitivity_inputs, progress(f"sensitivity by {measure.name}"))
    write_json(out / PROFILE, profile.facts())
    facts = {name: value for name, value in profile.facts().items() if name in ("blocks", "block_errors", "details")}
    return {"name": measure.name, **facts}


def _sensitivity_inputs(
    measure: Sensitivity, params: SensitivityParams, inputs: dict[str, Artifact]
) -> SensitivityInputs:
    running = params.running
    decoder = _decoder(measure, inputs["source"], params.trust_remote_code, running)
    method = build_method(params.method, device=running.torch_device) if params.method else None
    windows = load_tokens(inputs["tokens"]) if "tokens" in inputs else None
    statistics = _statistics(inputs, running) if "statistics-0" in inputs else None
    return SensitivityInputs(matrices_of(decoder), decoder, windows, statistics, method)


def _decoder(measure: Sensitivity, source: Artifact, trust: bool, running: Running) -> Decoder:
    if "model" not in measure.needs:
        return decoder_of(source, trust, running)
    return load_whole(source.path, trust, device=running.torch_device, dtype=running.torch_dtype)


def _statistics(inputs: dict[str, Artifact], running: Running) -> Statistics:
    return lambda index: load_statistics(inputs[f"statistics-{index}"], running.torch_device)
