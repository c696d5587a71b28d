"""The step that measures sensitivities, on a tiny real model."""

import json
from pathlib import Path

import pytest
import torch
from pipelines import pipeline_of
from transformers import MixtralConfig

from pruning_core.compress.shares import matrices_of
from pruning_core.model.whole_model import load_whole
from pruning_core.progress import ignore_progress
from pruning_core.sensitivity import SENSITIVITIES, Profile, SensitivityInputs
from tasks.report.drawings import draw_profile, profile_chart
from tasks.steps.hidden_states import load_tokens
from tasks.steps.sensitivity import sensitivity
from tasks.store.artifact import Artifact

WANDA = {"saliency": {"name": "wanda"}, "pattern": {"name": "unstructured", "scope": "row"}, "sparsity": 0.5}
SPECS = {
    "fisher": {},
    "hutchinson": {"min_probes": 2, "max_probes": 2, "sequences": 2},
    "leave_one_out": {},
    "outliers": {},
    "spectral": {},
}


def measured(pipeline, spec: dict, method: dict = WANDA) -> Artifact:
    """The artifact of a sensitivity, with the inputs that it needs."""
    needs = SENSITIVITIES.build(spec).needs
    params = {"sensitivity": spec, "trust_remote_code": False, "device": "cpu", "dtype": "float32"}
    inputs = {"source": pipeline.source}
    if "method" in needs:
        params["method"] = method
    if "tokens" in needs:
        inputs["tokens"] = pipeline.calibration
    if "statistics" in needs:
        inputs |= {f"statistics-{index}": pipeline.statistics(index) for index in range(pipeline.depth)}
    return pipeline.context.run(sensitivity, params, inputs, f"{spec['name']} sensitivity")


def profile_in(artifact: Artifact) -> Profile:
    return Profile.of_facts(json.loads((artifact.path / "profile.json").read_text()))


@pytest.mark.parametrize("name", SENSITIVITIES.names())
def test_a_profile_is_measured_once_and_drawn(workspace_root: Path, name: str):
    pipeline, _ = pipeline_of(workspace_root)
    spec = {"name": name} | SPECS[name]
    artifact = measured(pipeline, spec)
    profile = profile_in(artifact)
    assert len(profile.matrices) == 14 and len(profile.blocks) == 2
    assert artifact.facts["name"] == name and artifact.facts["blocks"] == profile.blocks
    assert {file.name for file in artifact.path.iterdir()} == {"manifest.json", "profile.json", "run.json"}
    text = draw_profile(artifact.path)
    assert f"Sensitivity by {name}" in text and "down_proj" in text
    # A curve per kind of matrix and one for the blocks.
    kinds, blocks = (axes.get_lines() for axes in profile_chart(name, profile.facts()).axes)
    assert len(kinds) == 7 and len(blocks) == 1
    assert sorted(value for line in kinds for value in line.get_ydata()) == sorted(profile.matrices.values())
    assert blocks[0].get_ydata().tolist() == profile.blocks
    again = measured(pipeline_of(workspace_root)[0], spec)
    assert again.hit and again.digest == artifact.digest


def test_the_profile_is_the_one_that_the_core_measures(workspace_root: Path):
    pipeline, _ = pipeline_of(workspace_root)
    artifact = measured(pipeline, {"name": "fisher"})
    decoder = load_whole(pipeline.source.path)
    subject = SensitivityInputs(matrices_of(decoder), decoder, load_tokens(pipeline.calibration))
    assert profile_in(artifact) == SENSITIVITIES.build({"name": "fisher"}).measure(subject, ignore_progress)


def test_only_what_prunes_depends_on_the_method(workspace_root: Path):
    pipeline, _ = pipeline_of(workspace_root)
    more = WANDA | {"sparsity": 0.75}
    gentle, harsh = (measured(pipeline, {"name": "leave_one_out"}, method) for method in (WANDA, more))
    assert gentle.key != harsh.key
    assert profile_in(harsh).matrices != profile_in(gentle).matrices
    one, other = (measured(pipeline, {"name": "outliers"}, method) for method in (WANDA, more))
    assert one.key == other.key


def test_an_edit_of_one_sensitivity_leaves_the_others(workspace_root: Path, monkeypatch):
    from tasks.engine import step as step_module

    pipeline, real = pipeline_of(workspace_root)[0], step_module.module_digests
    before = {name: measured(pipeline, {"name": name}).key for name in ("outliers", "spectral")}

    def edited(names: list[str]) -> dict[str, str]:
        found = real(names)
        return {name: "edited" if name.endswith("sensitivity.spectral") else value for name, value in found.items()}

    monkeypatch.setattr(step_module, "module_digests", edited)
    after = {name: measured(pipeline, {"name": name}).key for name in before}
    assert after["outliers"] == before["outliers"] and after["spectral"] != before["spectral"]


@pytest.mark.parametrize("name", SENSITIVITIES.names())
def test_experts_are_measured_one_by_one(workspace_root: Path, mixture_directory, name: str):
    directory = mixture_directory(MixtralConfig, num_local_experts=5, starved=True)
    pipeline, _ = pipeline_of(workspace_root, [f"model={directory}"])
    profile = profile_in(measured(pipeline, {"name": name} | SPECS[name]))
    experts = [value for matrix, value in profile.matrices.items() if ".experts." in matrix]
    assert len(experts) == 2 * 5 * 3 and all(torch.tensor(experts).isfinite())
    if name == "fisher":
        starved = [value for matrix, value in profile.matrices.items() if ".experts.0." in matrix]
        assert not any(starved) and any(experts)
