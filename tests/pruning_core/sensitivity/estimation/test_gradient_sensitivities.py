"""Fisher and Hessian traces against explicit sums on models small enough for them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from architectures import CONFIGS
from small_models import reference, saved, sensitivity_inputs, transformers_weight, windows_of
from torch import Tensor, nn
from torch.func import functional_call
from transformers import MixtralConfig

from pruning_core.errors import InputError
from pruning_core.progress import ignore_progress
from pruning_core.sensitivity import SENSITIVITIES
from pruning_core.sensitivity.estimation import curvature
from pruning_core.sensitivity.estimation.curvature import differences, double_backward, probe
from pruning_core.sensitivity.estimation.gradients import weights_of

TOY = {"hidden_size": 4, "intermediate_size": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2}
ROUTES = {"differences": differences, "double_backward": double_backward}


def loss(model: nn.Module, window: Tensor) -> Tensor:
    """As transformers computes it: the mean over the window's predictions."""
    return model(window[None], labels=window[None]).loss


def explicit_squares(directory: Path, windows: Tensor, names: list[str]) -> Tensor:
    """[matrices, windows]: the squared norm of each window's gradient in transformers' own model."""
    model, columns = reference(directory), []
    for window in windows:
        model.zero_grad(set_to_none=False)
        loss(model, window).backward()
        columns.append(
            [transformers_weight(model, name, lambda p: p.grad).double().square().sum().item() for name in names]
        )
    return torch.tensor(columns, dtype=torch.float64).T


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_fisher_is_the_squared_gradient_of_each_sequence(config, tmp_path: Path):
    windows = windows_of(2)
    subject = sensitivity_inputs(saved(config, tmp_path), windows)
    found = SENSITIVITIES.build({"name": "fisher"}).traces(subject)
    expected = explicit_squares(tmp_path, windows, [matrix.name for matrix in subject.matrices])
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-12)


def test_fisher_is_not_the_square_of_the_mean_gradient(tiny_directory: Path):
    windows = windows_of(6)
    subject = sensitivity_inputs(tiny_directory, windows)
    profile = SENSITIVITIES.build({"name": "fisher", "normalise": "sum"}).measure(subject, ignore_progress)
    model = reference(tiny_directory)
    torch.stack([loss(model, window) for window in windows]).mean().backward()
    names = [matrix.name for matrix in subject.matrices]
    of_mean = {name: transformers_weight(model, name, lambda p: p.grad).square().sum().item() for name in names}
    assert all(profile.matrices[name] > 1.5 * of_mean[name] for name in names)


def test_sampled_labels_give_the_fisher_of_the_models_own_predictions(tiny_directory: Path):
    # One prediction, so that the expectation over its labels is a sum over the vocabulary.
    window = windows_of(1, length=2)[0]
    subject = sensitivity_inputs(tiny_directory, window.repeat(150, 1))
    samples = SENSITIVITIES.build({"name": "fisher", "labels": "sampled"}).traces(subject)
    model = reference(tiny_directory)
    logits = model(window[None]).logits[0, 0]
    expected = torch.zeros(len(subject.matrices), dtype=torch.float64)
    for label, share in enumerate(logits.softmax(-1).tolist()):
        model.zero_grad()
        F.cross_entropy(logits, torch.tensor(label)).backward(retain_graph=True)
        gradients = [transformers_weight(model, matrix.name, lambda p: p.grad) for matrix in subject.matrices]
        expected += share * torch.stack([gradient.double().square().sum() for gradient in gradients])
    errors = samples.std(dim=1) / len(subject.windows) ** 0.5
    assert ((samples.mean(dim=1) - expected).abs() <= 4 * errors + 1e-12).all()
    on_data = SENSITIVITIES.build({"name": "fisher"}).traces(replace(subject, windows=window[None]))[:, 0]
    assert ((on_data - expected).abs() > 4 * errors).any()


@pytest.fixture
def toy(tiny_llama, tmp_path: Path) -> Path:
    """A Llama of two blocks with 200 weights in its matrices, whose whole Hessian can be written down."""
    tiny_llama(**TOY).save_pretrained(tmp_path / "toy")
    return tmp_path / "toy"


def exact_hessian(directory: Path, windows: Tensor, names: list[str]) -> tuple[Tensor, list[int]]:
    """The Hessian of the mean loss by the weights of all matrices, flattened one after another, and their sizes."""
    model = reference(directory, "eager").requires_grad_(False)
    parts = [transformers_weight(model, name) for name in names]
    sizes = [part.numel() for part in parts]

    def mean_loss(flat: Tensor) -> Tensor:
        own = zip(names, parts, flat.split(sizes), strict=True)
        weights = {f"{name}.weight": values.view_as(part) for name, part, values in own}
        inputs = {"input_ids": windows, "labels": windows}
        return functional_call(model, weights, kwargs=inputs).loss

    flat = torch.cat([part.flatten() for part in parts])
    return torch.autograd.functional.hessian(mean_loss, flat).double(), sizes


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
def test_hutchinson_probes_are_products_with_the_exact_hessian_and_their_mean_is_its_trace(toy: Path, route: str):
    windows = windows_of(2, length=8)
    subject = sensitivity_inputs(toy, windows)
    names = [matrix.name for matrix in subject.matrices]
    hessian, sizes = exact_hessian(toy, windows, names)
    weights = weights_of(subject.decoder, subject.matrices)
    signs = probe(weights, torch.Generator().manual_seed(3))
    flat = torch.cat([signs[name].flatten() for name in names]).double()
    expected = torch.stack([part.sum() for part in (flat * (hessian @ flat)).split(sizes)])
    found = ROUTES[route](subject.decoder, windows, weights, signs).mean(dim=1)
    # Differences of float32 gradients keep about four digits.
    tolerance = 1e-4 if route == "double_backward" else 1e-2
    assert (found - expected).norm() <= tolerance * expected.norm()

    settings = {"name": "hutchinson", "route": route, "min_probes": 64, "max_probes": 64, "normalise": "sum"}
    traces = SENSITIVITIES.build(settings).traces(subject)
    assert traces.shape == (len(names), 64, 2)
    exact = torch.stack([part.sum() for part in hessian.diagonal().split(sizes)])
    errors = probe_deviations(hessian, sizes) / 64**0.5
    profile = SENSITIVITIES.build(settings).measure(subject, ignore_progress)
    assert ((traces.mean(dim=(1, 2)) - exact).abs() <= 3 * errors).all()
    assert list(profile.errors.values()) == pytest.approx(errors.tolist(), rel=0.5)


def probe_deviations(hessian: Tensor, sizes: list[int]) -> Tensor:
    """[matrices]: how far v^T H v of one probe of signs strays from the trace.

    The pairs of a matrix's own weights count twice, those with the weights of others once, the diagonal not at all.
    """
    rows = [part.square() for part in hessian.split(sizes)]
    own = [row.split(sizes, dim=1)[index].sum() for index, row in enumerate(rows)]
    diagonal = [part.square().sum() for part in hessian.diagonal().split(sizes)]
    total = [row.sum() for row in rows]
    return torch.stack([a + b - 2 * c for a, b, c in zip(total, own, diagonal, strict=True)]).sqrt()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_both_routes_agree_for_every_architecture(config, tmp_path: Path, monkeypatch):
    # So short a step that no router changes its choice and no ReLU its side.
    monkeypatch.setattr(curvature, "STEP", 2e-5)
    subject = sensitivity_inputs(saved(config, tmp_path), windows_of(1), dtype=torch.float64)
    weights = weights_of(subject.decoder, subject.matrices)
    signs = probe(weights, torch.Generator().manual_seed(0))
    shifted, exact = (route(subject.decoder, subject.windows, weights, signs) for route in ROUTES.values())
    assert exact.abs().sum() > 0
    assert (shifted - exact).norm() <= 0.05 * exact.norm()


def test_the_route_is_exact_where_a_shift_could_change_the_choice_of_experts(tiny_directory: Path, mixture_directory):
    spec = {"name": "hutchinson", "min_probes": 2, "max_probes": 2}
    mixture = sensitivity_inputs(mixture_directory(MixtralConfig, num_local_experts=4), windows_of(1))
    plain = sensitivity_inputs(tiny_directory, windows_of(1))
    for subject, route in ((mixture, "double_backward"), (plain, "differences")):
        automatic, chosen = (
            SENSITIVITIES.build(spec | {"route": route}).measure(subject, ignore_progress) for route in ("auto", route)
        )
        assert automatic == chosen and chosen.details["route"] == route


def test_probes_are_drawn_until_the_errors_are_small_enough(tiny_directory: Path):
    subject = sensitivity_inputs(tiny_directory, windows_of(2))

    def measured(**settings) -> dict:
        spec = {"name": "hutchinson", "min_probes": 3, "max_probes": 6} | settings
        return SENSITIVITIES.build(spec).measure(subject, ignore_progress).details

    assert measured(tolerance=1e6)["probes"] == 3
    never = measured(tolerance=1e-9)
    assert never["probes"] == 6 and never["settled"] == 0.0
    probes = SENSITIVITIES.build({"name": "hutchinson", "min_probes": 6, "max_probes": 6}).traces(subject).mean(dim=2)
    relative = probes.std(dim=1) / 6**0.5 / probes.mean(dim=1).abs()
    tolerance = float(relative.sort().values[4])
    assert measured(tolerance=tolerance, min_probes=6)["settled"] == pytest.approx(5 / len(relative))


def test_negative_traces_become_zero_and_are_counted(toy: Path):
    subject = sensitivity_inputs(toy, windows_of(2, length=8))
    spec = {"name": "hutchinson", "min_probes": 4, "max_probes": 4, "normalise": "sum"}
    means = SENSITIVITIES.build(spec).traces(subject).mean(dim=(1, 2))
    profile = SENSITIVITIES.build(spec).measure(subject, ignore_progress)
    assert int((means < 0).sum()) == profile.details["clamped"] > 0
    assert list(profile.matrices.values()) == pytest.approx(means.clamp(min=0).tolist())


def test_the_published_estimate_is_one_probe_over_all_parameters_on_one_window(tiny_directory: Path):
    subject = sensitivity_inputs(tiny_directory, windows_of(3))
    profile = SENSITIVITIES.build({"name": "hutchinson", "form": "mixgpt_code", "seed": 5}).measure(
        subject, ignore_progress
    )
    model = reference(tiny_directory, "eager")
    parameters = dict(model.named_parameters())
    signs = probe(parameters, torch.Generator().manual_seed(5))
    first = torch.autograd.grad(loss(model, subject.windows[0]), parameters.values(), create_graph=True)
    along = sum((gradient * sign).sum() for gradient, sign in zip(first, signs.values(), strict=True))
    products = torch.autograd.grad(along, parameters.values())
    expected = {
        name: abs(float((product * signs[name]).sum())) for name, product in zip(parameters, products, strict=True)
    }
    assert profile.errors is None
    assert profile.matrices == pytest.approx({name: expected[f"{name}.weight"] for name in profile.matrices}, rel=1e-3)
    norms = [name for name in expected if name.startswith("model.layers.") and "norm" in name]
    assert profile.details["others"] == pytest.approx({name: expected[name] for name in norms}, rel=1e-3)


def test_half_precision_is_refused_where_gradients_are_compared(tiny_directory: Path):
    subject = sensitivity_inputs(tiny_directory, windows_of(2), dtype=torch.bfloat16)
    for spec in ({"name": "hutchinson"}, {"name": "hutchinson", "form": "mixgpt_code"}):
        with pytest.raises(InputError, match=r"gradients in float32; set compute\.dtype to float32"):
            SENSITIVITIES.build(spec).measure(subject, ignore_progress)


def test_an_operation_without_a_second_derivative_is_told_with_the_way_out(tiny_directory: Path):
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(context, values: Tensor) -> Tensor:
            return values.clone()

        @staticmethod
        def backward(context, gradient: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise NotImplementedError("the derivative for 'once' is not implemented")
            return gradient

    subject = sensitivity_inputs(tiny_directory, windows_of(2))
    subject.decoder.blocks[0].register_forward_hook(lambda module, args, out: Once.apply(out))
    spec = {"name": "hutchinson", "min_probes": 1, "max_probes": 1}
    assert SENSITIVITIES.build(spec).measure(subject, ignore_progress).details["probes"] == 1
    with pytest.raises(InputError, match=r"cannot be differentiated twice .*; use route: differences"):
        SENSITIVITIES.build(spec | {"route": "double_backward"}).measure(subject, ignore_progress)
