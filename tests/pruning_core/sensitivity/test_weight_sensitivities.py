"""Outliers, spectra and single prunings against slow obvious computations."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import CONFIGS
from small_models import MAGNITUDE, WANDA, reference, saved, sensitivity_inputs, transformers_weight, windows_of
from torch import Tensor, nn

from pruning_core.progress import ignore_progress
from pruning_core.sensitivity import SENSITIVITIES
from pruning_core.sensitivity.spectral import eigenvalues, inverse_alpha

KINDS = {config.model_type: config for config in CONFIGS if config.model_type in ("gpt2", "mixtral", "opt", "bloom")}


def inputs_of(model: nn.Module, windows: Tensor, names: list[str]) -> dict[str, Tensor]:
    """Matrix -> [tokens, in] that enters it."""
    inputs = {}
    for name in names:
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda hooked, args, name=name: inputs.update({name: args[0].flatten(0, 1)}))
    with torch.no_grad():
        model(windows)
    return inputs


@pytest.mark.parametrize("multiple", [2.0, 3.5, 5.0])
def test_outliers_are_counted_over_all_matrices_of_a_block(tiny_directory: Path, multiple: float):
    subject = sensitivity_inputs(tiny_directory, windows_of(5))
    profile = SENSITIVITIES.build({"name": "outliers", "multiple": multiple}).measure(subject, ignore_progress)
    model = reference(tiny_directory)
    inputs = inputs_of(model, subject.windows, [matrix.name for matrix in subject.matrices])
    expected = []
    for block in range(2):
        scores = []
        for matrix in subject.matrices:
            if matrix.block == block:
                weight = transformers_weight(model, matrix.name).detach().double().numpy()
                norms = [math.sqrt(sum(x * x for x in column)) for column in inputs[matrix.name].double().T.tolist()]
                scores += [abs(w) * norm for row in weight for w, norm in zip(row, norms, strict=True)]
        mean = sum(scores) / len(scores)
        expected.append(100 * sum(score > multiple * mean for score in scores) / len(scores))
    assert profile.blocks == pytest.approx(expected) and profile.errors is None
    assert len(set(profile.blocks)) == 2
    for matrix in subject.matrices:
        assert profile.matrices[matrix.name] == profile.blocks[matrix.block]


def slow_inverse_alpha(weight: np.ndarray) -> float:
    """Every step written out: Hill's estimate for each start near the peak, the best fit wins."""
    spectrum = sorted(float(value) ** 2 for value in np.linalg.svd(weight, compute_uv=False))
    counts, edges = np.histogram(np.log10(spectrum), bins=100)
    peak = 10 ** edges[counts.argmax()]
    best = (math.inf, 0.0)
    for k, start in enumerate(spectrum[:-1]):
        if not 0.95 * peak <= start <= 1.5 * peak:
            continue
        tail = spectrum[k:]
        alpha = 1 + len(tail) / sum(math.log(value / start) for value in tail)
        laws = [1 - (value / start) ** (1 - alpha) for value in tail]
        distance = max(abs(law - i / len(tail)) for i, law in enumerate(laws))
        best = min(best, (distance, 1 / alpha))
    return best[1]


def test_the_spectrum_of_each_matrix_has_the_tail_of_the_slow_computation(tiny_directory: Path):
    subject = sensitivity_inputs(tiny_directory, windows_of(2))
    profile = SENSITIVITIES.build({"name": "spectral"}).measure(subject, ignore_progress)
    model = reference(tiny_directory)
    alphas: list[list[float]] = [[], []]
    for matrix in subject.matrices:
        expected = slow_inverse_alpha(transformers_weight(model, matrix.name).detach().double().numpy())
        assert profile.matrices[matrix.name] == pytest.approx(expected, rel=1e-6)
        alphas[matrix.block].append(1 / expected)
    assert profile.blocks == pytest.approx([1 / (sum(own) / len(own)) for own in alphas])


@pytest.mark.parametrize("alpha", [1.5, 2.5, 4.0])
def test_the_exponent_of_a_power_law_is_found(alpha: float):
    # The quantiles of a law with density proportional to x^-alpha from 1 on.
    upper = 1 - (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    spectrum = upper ** (-1 / (alpha - 1))
    assert inverse_alpha(spectrum) == pytest.approx(1 / alpha, rel=0.03)


@pytest.mark.parametrize("weight", [torch.eye(6), torch.zeros(4, 5), torch.ones(1, 7), torch.ones(5, 5)])
def test_a_matrix_without_a_tail_is_not_sensitive(weight: Tensor):
    assert inverse_alpha(eigenvalues(weight)) == 0.0


def test_a_block_with_a_matrix_without_a_tail_is_as_insensitive(tiny_directory: Path):
    subject = sensitivity_inputs(tiny_directory, windows_of(2))
    subject.decoder.linears(1)["model.layers.1.mlp.up_proj"].weight.fill_(0.0)
    profile = SENSITIVITIES.build({"name": "spectral"}).measure(subject, ignore_progress)
    assert profile.blocks[1] == 0.0 < profile.blocks[0]


def half_gone(weight: Tensor) -> Tensor:
    """`weight` without its smaller half."""
    flat = weight.flatten().abs()
    return weight.masked_fill((flat < flat.sort().values[len(flat) // 2]).view_as(weight), 0.0)


def mean_losses(model: nn.Module, windows: Tensor) -> Tensor:
    """[windows] float64."""
    with torch.no_grad():
        return torch.tensor([model(row[None], labels=row[None]).loss.item() for row in windows], dtype=torch.float64)


@pytest.mark.parametrize("kind", ["llama", *KINDS])
def test_leaving_one_out_is_the_loss_of_the_model_with_that_matrix_pruned(kind: str, tiny_directory, tmp_path: Path):
    directory = tiny_directory if kind == "llama" else saved(KINDS[kind], tmp_path / "kind")
    windows = windows_of(3)
    subject = replace(sensitivity_inputs(directory, windows, MAGNITUDE), statistics=None)
    all_increases = SENSITIVITIES.build({"name": "leave_one_out"}).increases(subject)
    model = reference(directory)
    dense = mean_losses(model, windows)
    for matrix, increases in zip(subject.matrices, all_increases, strict=True):
        weight = transformers_weight(model, matrix.name, lambda parameter: parameter.data)
        before = weight.clone()
        weight.copy_(half_gone(weight))
        torch.testing.assert_close(increases, mean_losses(model, windows) - dense, rtol=0, atol=5e-6)
        weight.copy_(before)
    assert all_increases.abs().max() > 1e-3 or kind != "llama"


def test_leaving_a_block_out_prunes_all_its_matrices(tiny_directory: Path):
    windows = windows_of(3)
    subject = sensitivity_inputs(tiny_directory, windows, MAGNITUDE)
    spec = {"name": "leave_one_out", "granularity": "block"}
    profile = SENSITIVITIES.build(spec).measure(subject, ignore_progress)
    dense = mean_losses(reference(tiny_directory), windows)
    for block in range(2):
        model = reference(tiny_directory)
        for matrix in subject.matrices:
            if matrix.block == block:
                weight = transformers_weight(model, matrix.name, lambda parameter: parameter.data)
                weight.copy_(half_gone(weight))
        increases = mean_losses(model, windows) - dense
        assert profile.blocks[block] == pytest.approx(max(float(increases.mean()), 0.0), abs=5e-6)
        assert profile.block_errors[block] == pytest.approx(float(increases.std() / 3**0.5), abs=5e-6)
    size = sum(matrix.size for matrix in subject.matrices) / 2
    mean = SENSITIVITIES.build(spec | {"normalise": "mean"}).measure(subject, ignore_progress)
    assert mean.blocks == pytest.approx([value / size for value in profile.blocks])
    assert {mean.matrices[matrix.name] - mean.blocks[matrix.block] for matrix in subject.matrices} == {0.0}


def test_leaving_one_out_prunes_with_the_methods_own_statistics(tiny_directory: Path):
    windows = windows_of(4)
    subject = sensitivity_inputs(tiny_directory, windows, WANDA)
    all_increases = SENSITIVITIES.build({"name": "leave_one_out"}).increases(subject)
    inputs = inputs_of(reference(tiny_directory), windows, [matrix.name for matrix in subject.matrices])
    dense = mean_losses(reference(tiny_directory), windows)
    for matrix, increases in zip(subject.matrices, all_increases, strict=True):
        model = reference(tiny_directory)
        weight = model.get_submodule(matrix.name).weight.data
        score = weight.abs() * inputs[matrix.name].norm(dim=0)
        smallest = score.argsort(dim=1)[:, : matrix.columns // 2]
        weight.scatter_(1, smallest, 0.0)
        torch.testing.assert_close(increases, mean_losses(model, windows) - dense, rtol=0, atol=5e-6)
