"""Importances against sums over single weights, automatic differentiation, and groups that are known not to matter."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from structured_models import DENSE, families_of, label, logits, saved, token_windows
from transformers import GPT2Config, LlamaConfig

from pruning_core.errors import InputError
from pruning_core.model.coupled_groups import Site, sites_of
from pruning_core.model.whole_model import load_whole
from pruning_core.numerics.rank_correlation import ranks
from pruning_core.structured.fusion import correlations, fusion_weights, interpolated, relative_savings
from pruning_core.structured.gradients import gradient_moments, window_gradients
from pruning_core.structured.importance import IMPORTANCES
from pruning_core.structured.importance.hybrid import coarse_estimate, fine_estimate
from pruning_core.structured.input_variance import Spread
from pruning_core.structured.probes import measured_losses, probe_groups
from pruning_core.structured.scoring_inputs import ScoringInputs

LLAMA = LlamaConfig(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=32,
    attention_bias=True,
    mlp_bias=True,
)
GPT2 = GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=3, n_head=4)
NAMES = IMPORTANCES.names()


def scoring_inputs(config, path: Path, families=("mlp", "attention"), count: int = 6) -> ScoringInputs:
    decoder = load_whole(saved(config, path))
    sites = tuple(sites_of(decoder.blocks, decoder.block_prefix, families))
    return ScoringInputs(decoder, sites, token_windows(count), batch=2)


@pytest.fixture(params=[LLAMA, GPT2], ids=label)
def subject(request, tmp_path: Path) -> ScoringInputs:
    return scoring_inputs(request.param, tmp_path)


def owned(site: Site, group: int, tensors: dict) -> torch.Tensor:
    """Everything of `tensors` (parameter -> tensor) that a group owns, as one vector."""
    parts = [
        tensors[member.name].select(member.axis, position).flatten()
        for member in site.members
        for position in member.index[group].tolist()
    ]
    return torch.cat(parts).double()


def weights(subject: ScoringInputs) -> dict:
    return {name: parameter.detach() for name, parameter in subject.decoder.model.named_parameters()}


def window_slopes(subject: ScoringInputs) -> list[dict]:
    """Parameter -> gradient for each window, by transformers' own loss."""
    model = subject.decoder.model.requires_grad_(True)
    found = []
    for window in subject.windows:
        model.zero_grad()
        model(input_ids=window[None], labels=window[None]).loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    model.requires_grad_(False)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("config", DENSE, ids=label)
@pytest.mark.parametrize("name", NAMES)
def test_every_importance_scores_every_group_of_every_architecture(config, name: str, tmp_path: Path):
    subject = scoring_inputs(config, tmp_path, families_of(config), count=3)
    before = {key: value.clone() for key, value in weights(subject).items()}
    spec = {"name": name} | ({"probes": 3, "probe_tokens": 20} if name == "hybrid" else {})
    scores = IMPORTANCES.build(spec).score(subject)
    assert all(
        scores.of(site).dtype == torch.float64 and scores.of(site).std() > 0
        for site in subject.sites
        if site.groups > 1
    )
    assert all(torch.equal(value, before[key]) and not value.requires_grad for key, value in weights(subject).items())


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"random"}))
def test_a_group_whose_weights_are_zero_scores_lowest(subject: ScoringInputs, name: str):
    for site in subject.sites:
        for member in site.members:
            for position in member.index[1].tolist():
                subject.decoder.model.get_parameter(member.name).data.select(member.axis, position).zero_()
    spec = {"name": name} | ({"probes": 24, "probe_tokens": 40} if name == "hybrid" else {})
    scores = IMPORTANCES.build(spec).score(subject)
    assert all(int(scores.of(site).argmin()) == 1 for site in subject.sites)


def test_chance_follows_its_seed(subject: ScoringInputs):
    draw = [IMPORTANCES.build({"name": "random", "seed": seed}).score(subject).values for seed in (0, 0, 1)]
    assert all(
        torch.equal(draw[0][key], draw[1][key]) and not torch.equal(draw[0][key], draw[2][key]) for key in draw[0]
    )


def test_magnitude_is_the_norm_of_all_that_a_group_owns(subject: ScoringInputs):
    scores = IMPORTANCES.build({"name": "magnitude"}).score(subject)
    for site in subject.sites:
        expected = [owned(site, group, weights(subject)).norm() for group in range(site.groups)]
        torch.testing.assert_close(scores.of(site), torch.stack(expected))


def test_row_and_column_are_weights_times_the_norms_of_their_inputs(tmp_path: Path):
    subject = scoring_inputs(LLAMA, tmp_path, ["mlp"])
    model, site = subject.decoder.model, subject.sites[1]
    seen = {}
    mlp = model.model.layers[1].mlp
    for name in ("gate_proj", "down_proj"):
        mlp.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0]))
    logits(model, subject.windows)
    norms = {name: x.flatten(0, 1).double().square().mean(0).sqrt() for name, x in seen.items()}
    row = (mlp.gate_proj.weight.abs() + mlp.up_proj.weight.abs()).double() @ norms["gate_proj"]
    column = mlp.down_proj.weight.double().abs().sum(0) * norms["down_proj"]
    found = {name: IMPORTANCES.build({"name": name}).score(subject).of(site) for name in ("row", "column", "both")}
    torch.testing.assert_close(found["row"], row, rtol=1e-5, atol=0)
    torch.testing.assert_close(found["column"], column, rtol=1e-5, atol=0)
    both = (row / row.mean() + column / column.mean()) / 2
    torch.testing.assert_close(found["both"] / found["both"].mean(), both, rtol=1e-5, atol=0)


def test_fine_and_coarse_are_their_sums_over_windows_and_weights(subject: ScoringInputs):
    model = subject.decoder.model
    moments = gradient_moments(model, subject.sites, subject.windows)
    slopes, own = window_slopes(subject), weights(subject)
    for site in subject.sites:
        fine, coarse = fine_estimate(model, site, moments), coarse_estimate(model, site, moments)
        for group in range(site.groups):
            w = owned(site, group, own)
            g = torch.stack([owned(site, group, one) for one in slopes])
            expected = (g.mean(0) * w - (g**2).mean(0) * w**2 / 2).abs().sum()
            torch.testing.assert_close(fine[group], expected, rtol=1e-4, atol=1e-9)
            # The Fisher matrix of the group as a whole, every product of two weights in it.
            fisher = torch.einsum("ni,nj->ij", g, g) / len(g)
            torch.testing.assert_close(moments.gate[site.name][group], w @ fisher @ w, rtol=1e-4, atol=1e-9)
            torch.testing.assert_close(coarse[group], (g.mean(0) @ w - w @ fisher @ w / 2).abs(), rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("order", ["vectorize", "first", "second", "mixed"])
@pytest.mark.parametrize("grouping", ["sum", "mean", "max", "prod", "first", "last"])
def test_taylor_is_llm_pruners_formula_row_by_row(tmp_path: Path, order: str, grouping: str):
    subject = scoring_inputs(LLAMA, tmp_path, ["attention"], count=4)
    slopes, own = window_slopes(subject), weights(subject)
    found = IMPORTANCES.build({"name": "taylor", "order": order, "grouping": grouping}).score(subject)
    for site in subject.sites:
        for group in range(site.groups):
            parts: dict[str, torch.Tensor] = {}
            for member in site.members:
                for position in member.index[group].tolist():
                    w = own[member.name].select(member.axis, position).double()
                    g = torch.stack([one[member.name].select(member.axis, position) for one in slopes]).double()
                    first, second = w * g.mean(0), w**2 * (g**2).mean(0)
                    terms = {"first": first.abs(), "second": second, "mixed": (first - second / 2).abs()}
                    score = first.sum().abs() if order == "vectorize" else terms[order].sum()
                    parts[member.part] = parts.get(member.part, 0) + score
            assert list(parts) == ["query", "key", "value", "out"]
            every = torch.stack(list(parts.values()))
            picked = {"sum": every.sum(), "mean": every.mean(), "max": every.max(), "prod": every.prod()}
            picked |= {"first": every[0], "last": every[-1]}
            torch.testing.assert_close(found.of(site)[group], picked[grouping], rtol=1e-3, atol=1e-9)


def test_the_square_of_the_mean_gradient_is_not_the_fisher(subject: ScoringInputs):
    moments = gradient_moments(subject.decoder.model, subject.sites, subject.windows)
    for name, mean in moments.mean.items():
        # Rounding apart, E[g^2] >= E[g]^2; equal only if all windows agreed.
        assert (moments.fisher[name] >= mean.square() * 0.999 - 1e-12).all()
        assert moments.fisher[name].sum() > 1.01 * mean.square().sum()


def test_the_spread_of_batches_is_that_of_all_tokens():
    inputs = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100
    spread = Spread()
    for part in inputs.split([7, 30, 23]):
        spread.add(part[None])
    torch.testing.assert_close(spread.mean, inputs.double().mean(0))
    torch.testing.assert_close(spread.variance, inputs.double().var(0, correction=0))


def test_fluctuation_is_the_standardised_variance_times_the_squared_column(tmp_path: Path):
    subject = scoring_inputs(LLAMA, tmp_path)
    block, seen = subject.decoder.model.model.layers[2], {}
    block.mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.__setitem__("mlp", args[0]))
    block.self_attn.o_proj.register_forward_pre_hook(lambda _, args: seen.__setitem__("attention", args[0]))
    logits(subject.decoder.model, subject.windows)
    inputs = dict(seen)
    found = IMPORTANCES.build({"name": "fluctuation"}).score(subject).values
    for family, weight in (("mlp", block.mlp.down_proj.weight), ("attention", block.self_attn.o_proj.weight)):
        metric = inputs[family].flatten(0, 1).double().var(0, correction=0) * weight.double().square().sum(0)
        metric = metric**2 if family == "attention" else metric
        standard = (metric - metric.mean()) / metric.std(correction=0)
        expected = standard if family == "mlp" else standard.view(2, -1).mean(1)
        torch.testing.assert_close(found[f"2.{family}"], expected, rtol=1e-5, atol=1e-6)


def test_a_measured_rise_is_the_loss_of_the_model_with_the_groups_at_zero(subject: ScoringInputs):
    chosen = {site.name: [[0], [0, site.groups - 1]] for site in subject.sites}
    rises = measured_losses(subject, chosen, tokens=80)
    model, windows = subject.decoder.model, subject.windows[:4]

    def loss() -> float:
        return float(F.cross_entropy(logits(model, windows)[:, :-1].flatten(0, 1), windows[:, 1:].flatten()))

    dense = loss()
    for site in subject.sites:
        for number, groups in enumerate(chosen[site.name]):
            kept = {member.name: model.get_parameter(member.name).clone() for member in site.members}
            for member in site.members:
                for position in member.index[groups].flatten().tolist():
                    model.get_parameter(member.name).data.select(member.axis, position).zero_()
            assert float(rises[site.name][number]) == pytest.approx(loss() - dense, abs=2e-6)
            for name, value in kept.items():
                model.get_parameter(name).data.copy_(value)


def test_fusion_follows_the_estimate_that_tells_the_measured_losses():
    rises = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    known = correlations(rises[:3], [0, 1, 2], rises.flip(0), rises)
    assert known == pytest.approx([-1.0, 1.0])
    # Removing what fine holds least costs 0.1, by coarse 0.3: 0.5 and 1.5 times their mean.
    assert relative_savings(torch.tensor([0.1, 0.3])) == pytest.approx([-0.5, -1.5])
    assert relative_savings(torch.zeros(2)) == [0.0, 0.0]
    alpha = fusion_weights("probes", known, 0, 3, temperature=0.5, prior=0.25)
    expected = torch.softmax(torch.tensor([-1 / 0.5, 1 / 0.5], dtype=torch.float64), 0)
    assert alpha == pytest.approx(expected.tolist())
    # The prior leans to fine in the first block and to coarse in the last.
    first, middle, last = (fusion_weights("prior", None, block, 3, 0.1, 0.25) for block in range(3))
    assert first == pytest.approx(torch.softmax(torch.tensor([0.25, -0.25]), 0).tolist()) and middle == (0.5, 0.5)
    assert last == pytest.approx(first[::-1])
    both = fusion_weights("probes_and_prior", [0.3, 0.2], 0, 3, 0.1, 0.25)
    assert both == pytest.approx(torch.softmax(torch.tensor([3 + 0.25, 2 - 0.25]), 0).tolist())
    assert [fusion_weights(name, None, 0, 3, 0.1, 0.25) for name in ("fine", "coarse", "half")] == [
        (1, 0),
        (0, 1),
        (0.5, 0.5),
    ]


def test_evidence_between_measured_blocks_is_interpolated_within_its_family():
    sites = [Site(block, family, 2, (), {}) for block in range(5) for family in ("mlp", "attention")]
    known = {"0.mlp": [1.0, 0.0], "4.mlp": [-1.0, 2.0], "0.attention": [0.3, 0.4], "4.attention": [0.3, 0.4]}
    found = interpolated(sites, known)
    assert [found[f"{block}.mlp"][0] for block in range(5)] == pytest.approx([1.0, 0.5, 0.0, -0.5, -1.0])
    assert [found[f"{block}.mlp"][1] for block in range(5)] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])
    assert all(found[f"{block}.attention"] == pytest.approx([0.3, 0.4]) for block in range(5))


def test_probes_are_spread_over_the_ranks():
    values = torch.arange(100, dtype=torch.float64).flip(0)
    assert probe_groups(values, 10) == [4, 14, 24, 34, 44, 54, 64, 74, 84, 94]
    assert probe_groups(values[:5], 24) == [0, 1, 2, 3, 4]


def test_a_fixed_fusion_ranks_as_its_estimate(subject: ScoringInputs):
    moments = gradient_moments(subject.decoder.model, subject.sites, subject.windows)
    for name, estimate in (("fine", fine_estimate), ("coarse", coarse_estimate)):
        scores = IMPORTANCES.build({"name": "hybrid", "fusion": name}).score(subject)
        for site in subject.sites:
            torch.testing.assert_close(scores.of(site), estimate(subject.decoder.model, site, moments))


@pytest.mark.parametrize(
    "settings", [{"evidence": "single"}, {"every": 2}, {"normalise": "rank"}, {"combine": "geometric"}]
)
def test_fused_scores_are_the_weighted_estimates(subject: ScoringInputs, settings: dict):
    moments = gradient_moments(subject.decoder.model, subject.sites, subject.windows)
    scores = IMPORTANCES.build({"name": "hybrid", "probes": 5, "probe_tokens": 40, **settings}).score(subject)
    for site in subject.sites:
        both = [of(subject.decoder.model, site, moments) for of in (fine_estimate, coarse_estimate)]
        note = scores.notes["fusion"][site.name]
        share = (note["fine"], note["coarse"])
        assert sum(share) == pytest.approx(1)
        alike = [(1 + ranks(one)) / len(one) if "normalise" in settings else one / one.mean() for one in both]
        if "combine" in settings:
            expected = alike[0] ** share[0] * alike[1] ** share[1]
        else:
            expected = share[0] * alike[0] + share[1] * alike[1]
        scale = both[0].mean() ** share[0] * both[1].mean() ** share[1]
        torch.testing.assert_close(scores.of(site), expected * scale, rtol=1e-6, atol=0)


def test_a_missing_text_is_named(subject: ScoringInputs):
    with pytest.raises(InputError, match="calibration windows"):
        IMPORTANCES.build({"name": "column"}).score(ScoringInputs(subject.decoder, subject.sites))


def test_gradients_leave_the_model_as_it_was_also_where_nobody_reads_to_the_end(subject: ScoringInputs):
    walk = window_gradients(subject.decoder.model, subject.windows, ["lm_head.weight"])
    next(walk)
    walk.close()
    assert not any(parameter.requires_grad for parameter in subject.decoder.model.parameters())
