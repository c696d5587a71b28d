"""Hutchinson traces of every probe, taken once; what fewer probes would have told is their first ones."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.quality.entries import Recipe
from pruning_core.compress.shares import matrices_of, target_of, unit_of
from pruning_core.model.whole_model import load_whole
from pruning_core.sensitivity import SENSITIVITIES, Profile, SensitivityInputs
from pruning_core.sensitivity.estimation.repeated_measurements import profile_of
from pruning_core.settings.recipe import Settings
from tasks.engine.step import Context, step
from tasks.pipeline.variant import Pipeline
from tasks.progress import progress
from tasks.steps.allocation import AllocationParams, allocation
from tasks.steps.hidden_states import decoder_of, exclusive, load_tokens
from tasks.steps.running import OnDevice
from tasks.steps.sensitivity import PROFILE
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import write_json

TRACES = "traces.safetensors"


@dataclass(frozen=True, kw_only=True)
class TracesParams(OnDevice):
    """`sensitivity` is a mapping of hutchinson."""

    sensitivity: dict[str, Any]


@step("traces", modules=lambda params: [SENSITIVITIES.module("hutchinson")])
def traces(params: TracesParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """v^T H v of every matrix, probe and sequence.

    inputs: source, tokens.
    writes: traces.safetensors {traces: [matrices, probes, sequences] float64}.
    """
    sensitivity, running = SENSITIVITIES.build(params.sensitivity), params.running
    with exclusive:
        where = {"device": running.torch_device, "dtype": running.torch_dtype}
        decoder = load_whole(inputs["source"].path, params.trust_remote_code, **where)
        subject = SensitivityInputs(matrices_of(decoder), decoder, load_tokens(inputs["tokens"]))
        estimates = sensitivity.traces(subject, progress("traces"))
    save_file({"traces": estimates}, out / TRACES)
    return {"probes": estimates.shape[1], "sequences": estimates.shape[2]}


@dataclass(frozen=True, kw_only=True)
class ProfileParams:
    """Parameters of the step `profile`: the number of probes, and how they are normalised."""

    probes: int
    normalise: str
    trust_remote_code: bool


@step("profile of traces")
def profile(params: ProfileParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """The profile of the first probes.

    inputs: source, traces.
    writes: profile.json.
    """
    with exclusive:
        matrices = matrices_of(decoder_of(inputs["source"], params.trust_remote_code))
    probes = traces_in(inputs["traces"])[:, : params.probes].mean(dim=2)
    sensitivities = profile_of(probes, matrices, params.normalise, {"probes": params.probes})
    write_json(out / PROFILE, sensitivities.facts())
    return sensitivities.details


def traces_in(artifact: Artifact) -> Tensor:
    """[matrices, probes, sequences] float64, in model order."""
    return load_file(artifact.path / TRACES)["traces"]


def profile_in(artifact: Artifact) -> Profile:
    """The profile that a step wrote."""
    return Profile.of_facts(json.loads((artifact.path / PROFILE).read_text()))


def by_probes(probes: int, sequences: int, seed: int, normalise: str = "mean") -> Recipe:
    """The allocation by so many probes, as a recipe has it."""
    number = {"min_probes": probes, "max_probes": probes, "sequences": sequences, "seed": seed}
    measure = {"name": "hutchinson", **number, "normalise": normalise}
    return {"name": "by_sensitivity", "sensitivity": measure}


class SharedTraces(Pipeline):
    """A pipeline whose allocations `by_probes` are made from one run of the most probes; they are what its own are.

    Args:
        context, settings: as of a pipeline; the seed of the calibration text is also that of the probes.
        probes: the most that any allocation asks for.
        sequences: how many calibration windows each probe sees.
    """

    def __init__(self, context: Context, settings: Settings, *, probes: int, sequences: int) -> None:
        super().__init__(context, settings)
        self.probes = probes
        self.sequences = sequences

    @cached_property
    def traces(self) -> Artifact:
        """Of all probes."""
        measure = by_probes(self.probes, self.sequences, self.settings.calibration.seed)["sensitivity"]
        params = TracesParams(sensitivity=measure, **self.on_device)
        return self.context.run(traces, params, {"source": self.source, "tokens": self.calibration}, "traces")

    def profile(self, probes: int, normalise: str = "mean") -> Artifact:
        """What the first `probes` tell."""
        params = ProfileParams(probes=probes, normalise=normalise, trust_remote_code=self.trust)
        return self.context.run(profile, params, {"source": self.source, "traces": self.traces}, "profile")

    def allocation(self, name: str) -> Artifact | None:
        recipe = self.settings.recipe(name)
        spec = recipe.spec.get("allocation") or {}
        measure = spec.get("sensitivity") or {}
        count, normalise = measure.get("max_probes"), measure.get("normalise")
        if spec != by_probes(count, self.sequences, self.settings.calibration.seed, normalise):
            return super().allocation(name)
        params = AllocationParams(
            allocation=spec,
            unit=unit_of(recipe.method),
            m=getattr(recipe.method.pattern, "m", None),
            target=target_of(recipe.method),
            trust_remote_code=self.trust,
        )
        measured = self.profile(count, normalise)
        return self.context.run(
            allocation, params, {"source": self.source, "sensitivity": measured}, f"{name} allocation"
        )
