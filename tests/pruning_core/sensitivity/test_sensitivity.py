"""Contract of every registered sensitivity, and what they share."""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import MAGNITUDE, WANDA, saved, sensitivity_inputs, windows_of
from transformers import GPT2Config, MixtralConfig

from pruning_core.checkpoint.model_files import read_config
from pruning_core.compress.shares import Matrix
from pruning_core.errors import ComputationError, InputError
from pruning_core.model.decoder import Decoder
from pruning_core.progress import ignore_progress
from pruning_core.sensitivity import SENSITIVITIES, Profile, wants_statistics
from pruning_core.sensitivity.estimation.repeated_measurements import half_sample_correlation, profile_of
from pruning_core.settings.method import build_method

EVERY = [
    *({"name": name} for name in SENSITIVITIES.names() if name != "hutchinson"),
    {"name": "fisher", "labels": "sampled", "normalise": "sum"},
    {"name": "leave_one_out", "granularity": "block", "normalise": "mean"},
    {"name": "hutchinson", "min_probes": 2, "max_probes": 3},
    {"name": "hutchinson", "min_probes": 2, "max_probes": 2, "route": "double_backward", "sequences": 2},
    {"name": "hutchinson", "form": "mixgpt_code"},
]
GPT2 = {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50}


@pytest.fixture(params=["llama", "one block", "gpt2", "mixtral"])
def directory(request, tiny_llama, mixture_directory, tmp_path: Path) -> Path:
    """Models that differ in what may go wrong: transposed matrices, experts without a token, a single block."""
    if request.param == "mixtral":
        return mixture_directory(MixtralConfig, num_local_experts=5, starved=True)
    path = tmp_path / "model"
    if request.param == "gpt2":
        saved(GPT2Config(**GPT2), path)
    else:
        tiny_llama(num_hidden_layers=1 if request.param == "one block" else 2).save_pretrained(path)
    return path


def state_of(decoder: Decoder) -> dict:
    """What a sensitivity could leave changed."""
    model = decoder.model
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "gradients": [
            name for name, value in model.named_parameters() if value.requires_grad or value.grad is not None
        ],
        "hooks": [module for module in model.modules() if module._forward_pre_hooks or module._forward_hooks],
        "forwards": [module for module in model.modules() if "forward" in vars(module)],
        "attention": model.config._attn_implementation,
    }


@pytest.mark.parametrize("spec", EVERY, ids=str)
def test_a_profile_is_complete_finite_and_repeatable_and_the_model_is_left_as_it_was(directory: Path, spec: dict):
    subject, sensitivity, reports = sensitivity_inputs(directory, windows_of(4)), SENSITIVITIES.build(spec), []
    before = state_of(subject.decoder)
    profile = sensitivity.measure(subject, lambda done, total: reports.append((done, total)))
    after = state_of(subject.decoder)
    weights, were = after.pop("weights"), before.pop("weights")
    assert after == before and all(torch.equal(weights[name], value) for name, value in were.items())
    assert list(profile.matrices) == [matrix.name for matrix in subject.matrices]
    assert len(profile.blocks) == len(subject.decoder)
    for values in (profile.matrices.values(), profile.blocks, (profile.errors or {}).values()):
        assert all(isinstance(value, float) and 0 <= value < float("inf") for value in values)
    assert (profile.errors is None) == (profile.block_errors is None)
    # A random model may be better without some of its weights.
    assert any(profile.matrices.values()) or sensitivity.name == "leave_one_out"
    assert reports[-1][0] == reports[-1][1] and reports == sorted(reports)
    assert sensitivity.measure(subject, ignore_progress) == profile
    # As an artifact keeps it.
    assert Profile.of_facts(json.loads(json.dumps(profile.facts(), allow_nan=False))) == profile


@pytest.mark.parametrize("spec", EVERY, ids=str)
def test_it_looks_at_nothing_but_its_needs(tiny_directory: Path, spec: dict):
    subject, sensitivity = sensitivity_inputs(tiny_directory, windows_of(4)), SENSITIVITIES.build(spec)
    expected = sensitivity.measure(subject, ignore_progress)
    fields = {"tokens": "windows", "statistics": "statistics", "method": "method"}
    bare = replace(subject, **{field: None for need, field in fields.items() if need not in sensitivity.needs})
    if "weights" in sensitivity.needs:
        # Blocks on disk are loaded and given back.
        bare = replace(bare, decoder=Decoder(tiny_directory, read_config(tiny_directory)))
    assert sensitivity.measure(bare, ignore_progress) == expected
    if "weights" in sensitivity.needs:
        assert all(parameter.is_meta for parameter in bare.decoder.model.parameters())


def test_statistics_are_wanted_where_the_method_that_prunes_needs_them():
    pruning, looking, data = (SENSITIVITIES.build({"name": n}) for n in ("leave_one_out", "outliers", "fisher"))
    assert wants_statistics(pruning.needs, build_method(WANDA)) and not wants_statistics(
        pruning.needs, build_method(MAGNITUDE)
    )
    assert wants_statistics(looking.needs, None) and not wants_statistics(data.needs, build_method(WANDA))


MATRICES = (Matrix("a", 0, 2, 3), Matrix("b", 0, 1, 2), Matrix("c", 1, 2, 2))


def test_means_and_errors_are_those_of_the_samples():
    samples = torch.tensor([[6.0, 12.0, 0.0], [2.0, 4.0, 9.0], [1.0, -8.0, 1.0]], dtype=torch.float64)
    profile = profile_of(samples, MATRICES, "mean", {"sequences": 3})
    assert profile.matrices == pytest.approx({"a": 1.0, "b": 2.5, "c": 0.0})
    assert profile.blocks == pytest.approx([(8 + 16 + 9) / 3 / 8, 0.0])
    error = statistics.stdev([2.0, 4.0, 9.0]) / 3**0.5
    assert profile.errors["b"] == pytest.approx(error / 2)
    assert profile.block_errors[0] == pytest.approx(statistics.stdev([8.0, 16.0, 9.0]) / 3**0.5 / 8)
    assert profile.details == {"sequences": 3, "clamped": 1, "clamped_blocks": 1}
    whole = profile_of(samples, MATRICES, "sum", {})
    assert whole.matrices["b"] == 5.0 and whole.blocks == [11.0, 0.0] and whole.errors["b"] == pytest.approx(error)
    assert profile_of(samples[:, :1], MATRICES, "sum", {}).errors is None


def test_a_sensitivity_that_is_not_finite_names_its_matrix():
    samples = torch.tensor([[1.0], [float("nan")], [1.0]], dtype=torch.float64)
    with pytest.raises(ComputationError, match="the sensitivity of b is NaN or inf"):
        profile_of(samples, MATRICES, "mean", {})


def test_half_samples_agree_where_there_is_no_noise_and_say_nothing_where_all_is_equal():
    steady = torch.arange(5.0)[:, None].expand(5, 4)
    assert half_sample_correlation(steady) == pytest.approx(1.0)
    assert half_sample_correlation(torch.stack([torch.arange(5.0), -torch.arange(5.0)], dim=1)) == pytest.approx(-1.0)
    assert half_sample_correlation(torch.ones(5, 4)) is None and half_sample_correlation(steady[:, :1]) is None


@pytest.mark.parametrize("name", ["fisher", "hutchinson", "leave_one_out"])
def test_windows_that_the_model_cannot_take_are_refused(tiny_directory: Path, name: str):
    subject, sensitivity = sensitivity_inputs(tiny_directory, windows_of(2)), SENSITIVITIES.build({"name": name})
    with pytest.raises(InputError, match="the model knows 0 to 49"):
        sensitivity.measure(replace(subject, windows=torch.full((2, 8), 50)), ignore_progress)


@pytest.mark.parametrize("name", ["fisher", "hutchinson"])
def test_more_sequences_than_there_are_are_refused(tiny_directory: Path, name: str):
    subject, sensitivity = (
        sensitivity_inputs(tiny_directory, windows_of(2)),
        SENSITIVITIES.build({"name": name, "sequences": 3}),
    )
    with pytest.raises(InputError, match="sequences is 3, but there are only 2 calibration windows"):
        sensitivity.measure(subject, ignore_progress)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"name": "fisher", "labels": "true"}, "labels"),
        ({"name": "hutchinson", "max_probes": 8}, "max_probes is 8, below min_probes, which is 16"),
        ({"name": "hutchinson", "form": "mixgpt_code", "sequences": 4}, "form mixgpt_code fixes sequences; remove it"),
        ({"name": "outliers", "multiple": 0.0}, "multiple"),
        ({"name": "spectral", "tail": 3}, "tail is not a known key"),
    ],
)
def test_settings_that_mean_nothing_are_refused(spec: dict, said: str):
    with pytest.raises(InputError, match=said):
        SENSITIVITIES.build(spec)
