"""The refit against its other form, against a dense solver, and by the errors it must not exceed."""

from pathlib import Path

import pytest
import torch
from problems import layer
from safetensors.torch import load_file
from structured_models import DENSE, families_of, label, logits, opened, saved, some_plan, token_windows
from transformers import GPT2Config, LlamaConfig

from pruning_core.errors import ComputationError, InputError
from pruning_core.source import load_model
from pruning_core.structured.least_squares import Moments, refit, relative_error
from pruning_core.structured.reconstruction import Reconstruction
from pruning_core.structured.surgery import kept_slices, write_pruned

RIDGES = (1e-4, 1e-2, 1e-1)
LLAMA = LlamaConfig(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)


def problem(absorbing: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(W, kept, x, y) of one matrix; absorbing: y is not x itself."""
    weight, x = layer()
    kept = torch.tensor([index for index in range(x.shape[1]) if index % 3])
    y = x[:, kept] * 0.9 + 0.1 * x[:, kept].roll(1, 1) + 0.5 if absorbing else x[:, kept]
    return weight, kept, x, y


def moments_of(x: torch.Tensor, y: torch.Tensor) -> Moments:
    moments = Moments()
    for part, other in zip(x.split(90), y.split(90), strict=True):
        moments.add(part, other)
    return moments


@pytest.mark.parametrize("ridge", RIDGES)
def test_both_forms_of_the_ridge_solution_are_one(ridge: float):
    weight, kept, x, y = problem()
    gone = torch.tensor([index for index in range(x.shape[1]) if index % 3 == 0])
    second = x.double().T @ x.double() / len(x)
    system = second[kept][:, kept]
    damped = system + ridge * system.diagonal().mean() * torch.eye(len(kept), dtype=torch.float64)
    w = weight.double()
    expected = w[:, kept] + w[:, gone] @ second[gone][:, kept] @ torch.linalg.inv(damped)
    found = refit(weight, kept, moments_of(x, y), ridge)
    torch.testing.assert_close(found.weight, expected, rtol=1e-9, atol=1e-9)
    values = torch.linalg.eigvalsh(damped)
    assert found.condition == pytest.approx(float(values[-1] / values[0]), rel=0.1)
    assert found.ridge == ridge and found.shift is None


@pytest.mark.parametrize("absorbing", [False, True])
def test_the_refit_is_what_a_solver_of_the_stacked_system_finds(absorbing: bool):
    weight, kept, x, y = problem(absorbing)
    w, ridge = weight.double(), 0.01
    scale = (y.double().square().mean(0).mean() * ridge * len(x)).sqrt()
    left = torch.cat([y.double(), scale * torch.eye(len(kept), dtype=torch.float64)])
    right = torch.cat([x.double() @ w.T, scale * w[:, kept].T])
    expected = torch.linalg.lstsq(left, right).solution.T
    torch.testing.assert_close(refit(weight, kept, moments_of(x, y), ridge).weight, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("absorbing", [False, True])
def test_with_a_bias_the_refit_is_that_of_centred_inputs_and_the_bias_takes_the_means(absorbing: bool):
    weight, kept, x, y = problem(absorbing)
    x, y = x + 3, y + 3
    w, ridge = weight.double(), 0.01
    flat = y.double() - y.double().mean(0)
    scale = (flat.square().mean(0).mean() * ridge * len(x)).sqrt()
    left = torch.cat([flat, scale * torch.eye(len(kept), dtype=torch.float64)])
    right = torch.cat([(x.double() - x.double().mean(0)) @ w.T, scale * w[:, kept].T])
    expected = torch.linalg.lstsq(left, right).solution.T
    moments = moments_of(x, y)
    found = refit(weight, kept, moments, ridge, centred=True)
    torch.testing.assert_close(found.weight, expected, rtol=1e-7, atol=1e-7)
    errors = x.double() @ w.T - y.double() @ found.weight.T - found.shift
    torch.testing.assert_close(errors.mean(0), torch.zeros(len(w), dtype=torch.float64), rtol=0, atol=1e-8)
    # Uncentred without a bias can only be worse where both fit freely.
    free = refit(weight, kept, moments, 1e-9)
    centred = refit(weight, kept, moments, 1e-9, centred=True)
    assert relative_error(weight, centred.weight, centred.shift, moments) < relative_error(
        weight, free.weight, None, moments
    )


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("absorbing", [False, True])
def test_the_error_on_the_tokens_solved_on_is_never_above_that_of_the_bare_survivors(ridge: float, absorbing: bool):
    weight, kept, x, y = problem(absorbing)
    moments = moments_of(x, y)
    found = refit(weight, kept, moments, ridge)
    before, after = (relative_error(weight, one, None, moments) for one in (weight[:, kept], found.weight))
    exact = x.double() @ weight.double().T
    for solved, error in ((weight[:, kept], before), (found.weight, after)):
        direct = (exact - y.double() @ solved.double().T).square().sum() / exact.square().sum()
        assert error == pytest.approx(float(direct), rel=1e-6)
    assert after < before


def test_a_system_that_cannot_be_factored_gets_a_larger_ridge_or_is_refused():
    weight = torch.randn(3, 4)
    # Two equal columns, in numbers that are exact: the factorization meets a zero, and not what rounding leaves of one.
    x = torch.tensor([[2.0, 0, 0, 0], [0, 2, 2, 0], [0, 0, 0, 2], [0, 0, 0, 0]])
    singular = moments_of(x, x)
    assert 1e-30 < refit(weight, torch.arange(4), singular, 1e-30).ridge < 1e-12
    silent = moments_of(torch.zeros(10, 4), torch.zeros(10, 2))
    torch.testing.assert_close(refit(weight, torch.tensor([0, 3]), silent, 1e-2).weight, weight[:, [0, 3]].double())
    broken = moments_of(x.clone().index_fill_(0, torch.tensor([3]), float("nan")), x)
    with pytest.raises(ComputationError, match="NaN or inf"):
        refit(weight, torch.arange(4), broken, 1e-2)
    indefinite = moments_of(x, x)
    indefinite.totals = indefinite.totals._replace(pruned=-indefinite.totals.pruned)
    with pytest.raises(ComputationError, match="cannot be solved"):
        refit(weight, torch.arange(4), indefinite, 1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("config", DENSE, ids=label)
@pytest.mark.parametrize("form", ["static", "absorbing"])
def test_every_consumer_of_every_architecture_is_refitted(config, form: str, tmp_path: Path):
    directory = saved(config, tmp_path / "dense")
    decoder, sites = opened(directory, families_of(config))
    plan = some_plan(decoder, sites)
    found, ledger = Reconstruction(form=form).run(decoder, sites, plan, token_windows(24, 16), batch=8)
    assert all(parameter.is_meta for parameter in decoder.blocks.parameters())
    assert [entry["layer"] for entry in ledger] == [
        site.consumer.matrix
        for block in range(len(decoder))
        for site in sorted((s for s in sites if s.block == block), key=lambda s: s.family == "mlp")
    ]
    assert all(
        entry["relative_error"]["train"]["after"] <= entry["relative_error"]["train"]["before"] + 1e-6
        for entry in ledger
    )
    write_pruned(decoder, sites, plan, tmp_path / "sliced", found)
    stored = load_file(tmp_path / "sliced" / "model.safetensors")
    for name, value in found.parameters.items():
        assert torch.equal(stored[decoder.stored_name(name)], value)
    load_model(tmp_path / "sliced")


def test_the_first_block_is_refitted_as_one_matrix_alone(tmp_path: Path):
    directory = saved(LLAMA, tmp_path)
    decoder, sites = opened(directory, ["mlp"])
    plan = some_plan(decoder, sites)
    windows = token_windows(20, 16)
    found, _ = Reconstruction(form="static", ridges=[0.01]).run(decoder, sites, plan, windows, batch=4)
    model, seen = load_model(directory), []
    down = model.model.layers[0].mlp.down_proj
    down.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    logits(model, windows[:-2])
    kept = kept_slices(sites[0], plan)[sites[0].consumer.name][1]
    expected = refit(down.weight, kept, moments_of(seen[0], seen[0][:, kept]), 0.01)
    found_weight = found.parameters["model.layers.0.mlp.down_proj.weight"].double()
    torch.testing.assert_close(found_weight, expected.weight, rtol=1e-4, atol=1e-4)


def test_a_model_that_loses_nothing_is_left_as_it_is(tmp_path: Path):
    decoder, sites = opened(saved(LLAMA, tmp_path), ["mlp", "attention"])
    whole = {site.name: tuple(range(site.groups)) for site in sites}
    plan = type(some_plan(decoder, sites))("heterogeneous", whole, 1, 1)
    found, _ = Reconstruction().run(decoder, sites, plan, token_windows(10, 16))
    for site in sites:
        expected = decoder.checkpoint.load(decoder.stored_name(site.consumer.name))
        torch.testing.assert_close(found.parameters[site.consumer.name], expected, rtol=1e-4, atol=1e-5)


def test_the_bias_gives_back_the_mean_of_what_went(tmp_path: Path):
    config = GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=4)
    directory = saved(config, tmp_path / "dense")
    decoder, sites = opened(directory, ["mlp"])
    plan = some_plan(decoder, sites)
    windows = token_windows(10, 16)
    found, ledger = Reconstruction(form="bias").run(decoder, sites, plan, windows)
    model, seen = load_model(directory), []
    down = model.transformer.h[0].mlp.c_proj
    down.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1).double()))
    logits(model, windows[:-1])
    gone = list(plan.removed(sites[0]))
    expected = down.bias + (seen[0].mean(0)[gone] @ down.weight.double()[gone]).float()
    torch.testing.assert_close(found.parameters["transformer.h.0.mlp.c_proj.bias"], expected, rtol=1e-4, atol=1e-5)
    assert found.new_biases == () and ledger[0]["event"] == "mean_as_bias"


def test_a_bias_that_the_architecture_has_no_place_for_is_refused(tmp_path: Path):
    config = next(config for config in DENSE if config.model_type == "mistral")
    decoder, sites = opened(saved(config, tmp_path / "dense"), ["mlp"])
    plan = some_plan(decoder, sites)
    found, _ = Reconstruction(form="bias").run(decoder, sites, plan, token_windows(4, 16))
    with pytest.raises(InputError, match="a mistral has no mlp_bias"):
        write_pruned(decoder, sites, plan, tmp_path / "sliced", found)


def test_a_single_window_is_too_few(tmp_path: Path):
    decoder, sites = opened(saved(LLAMA, tmp_path), ["mlp"])
    with pytest.raises(InputError, match="1 are too few"):
        Reconstruction().run(decoder, sites, some_plan(decoder, sites), token_windows(1, 16))
