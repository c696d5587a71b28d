"""Plans against brute force and by their sums."""

import itertools

import pytest
import torch
from structured_models import opened, saved
from transformers import LlamaConfig

from pruning_core.errors import InputError
from pruning_core.registry import validated
from pruning_core.structured.kept_groups import KeptGroups, groups_table, plan_table
from pruning_core.structured.ranking import Ranking
from pruning_core.structured.scores import Scores
from pruning_core.structured.surgery import stored_parameters

SIZES = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 4, "vocab_size": 50}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 2}


@pytest.fixture
def model(tmp_path):
    decoder, sites = opened(saved(LlamaConfig(**SIZES, **HEADS), tmp_path), ["mlp", "attention"])
    draw = torch.Generator().manual_seed(0)
    values = {site.name: torch.rand(site.groups, generator=draw, dtype=torch.float64) for site in sites}
    return sites, Scores(values), stored_parameters(decoder)


def removed_size(sites, plan: KeptGroups) -> int:
    return sum(len(plan.removed(site)) * site.group_size for site in sites)


def test_the_sizes_of_groups_add_up_to_the_blocks_matrices(model):
    sites, _, (total, in_blocks) = model
    norms = 4 * 2 * 16
    assert sum(site.groups * site.group_size for site in sites) == in_blocks - norms
    assert total == in_blocks + 2 * 50 * 16 + 16


@pytest.mark.parametrize("settings", [{"scope": "local"}, {"scope": "global"}, {"mode": "uniform"}])
@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.4, 0.6])
@pytest.mark.parametrize("multiple", [1, 8])
def test_the_ratio_is_met_within_half_of_the_smallest_step(model, settings, ratio, multiple):
    sites, scores, (total, in_blocks) = model
    chosen = {"mode": "heterogeneous", "protect_first": 0, "protect_last": 0, "of": "blocks"} | settings
    if chosen["mode"] == "uniform":
        chosen |= {"protect_first": None, "protect_last": None}
    plan = Ranking(ratio=ratio, multiple=multiple, **chosen).plan(sites, scores, total, in_blocks)
    step = multiple * 3 * 16 * (4 if chosen["mode"] == "uniform" else 1)
    assert abs(removed_size(sites, plan) - ratio * in_blocks) <= step / 2
    assert plan.before - plan.after == removed_size(sites, plan)
    channels = [len(plan.kept[site.name]) for site in sites if site.family == "mlp"]
    assert all(count % multiple == 0 and count >= 7 for count in channels)
    assert all(len(groups) >= 1 for groups in plan.kept.values())
    if chosen["mode"] == "uniform":
        assert len(set(channels)) == 1 and len({len(plan.kept[f"{block}.attention"]) for block in range(4)}) == 1


def test_the_groups_that_go_are_those_of_the_lowest_scores_of_their_site(model):
    sites, scores, sizes = model
    plan = Ranking(ratio=0.3, mode="heterogeneous", scope="global", multiple=8).plan(sites, scores, *sizes)
    for site in sites:
        gone, kept = plan.removed(site), plan.kept[site.name]
        values = scores.values[site.name]
        assert all(values[one] <= values[other] for one, other in itertools.product(gone, kept))


def test_globally_single_channels_go_in_the_order_of_score_per_parameter(tmp_path):
    decoder, sites = opened(saved(LlamaConfig(**SIZES, **HEADS), tmp_path), ["mlp"])
    draw = torch.Generator().manual_seed(1)
    scores = Scores({site.name: torch.rand(site.groups, generator=draw, dtype=torch.float64) for site in sites})
    settings = {"mode": "heterogeneous", "scope": "global", "protect_first": 0, "protect_last": 0, "multiple": 1}
    plan = Ranking(ratio=0.3, **settings).plan(sites, scores, *stored_parameters(decoder))
    every = sorted((float(scores.values[site.name][g]), site.name, g) for site in sites for g in range(site.groups))
    gone = {(site.name, group) for site in sites for group in plan.removed(site)}
    assert gone == {(name, group) for _, name, group in every[: len(gone)]}


def test_the_first_and_the_last_block_lose_nothing_where_blocks_may_differ(model):
    sites, scores, sizes = model
    plan = Ranking(ratio=0.2, mode="heterogeneous").plan(sites, scores, *sizes)
    untouched = {site.block for site in sites if not plan.removed(site)}
    assert {0, 3} <= untouched and 1 not in untouched


def test_queries_go_in_equal_numbers_from_every_key_value_head(tmp_path):
    config = LlamaConfig(**SIZES, num_attention_heads=8, num_key_value_heads=2, head_dim=2)
    decoder, sites = opened(saved(config, tmp_path), ["query"])
    draw = torch.Generator().manual_seed(0)
    scores = Scores({site.name: torch.rand(8, generator=draw, dtype=torch.float64) for site in sites})
    plan = Ranking(ratio=0.02).plan(sites, scores, *stored_parameters(decoder))
    for site in sites:
        kept = plan.kept[site.name]
        assert len([head for head in kept if head < 4]) == len([head for head in kept if head >= 4]) == 3
        for own in (range(4), range(4, 8)):
            gone = set(own) - set(kept)
            assert gone == {min(own, key=lambda head: float(scores.values[site.name][head]))}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"ratio": 0.95}, "would empty a block: .* at most 0.6"),
        ({"ratio": 0.6, "mode": "heterogeneous"}, "at most 0.3"),
        ({"ratio": 1e-6}, "less than half of the smallest"),
        ({"ratio": 1.0}, "ratio: input should be less than 1"),
        ({"ratio": 0.3, "scope": "global"}, "choose mode heterogeneous"),
        ({"ratio": 0.3, "protect_first": 1}, "choose mode heterogeneous"),
        ({"ratio": 0.3, "multiple": 7}, "multiple"),
        ({"ratio": 0.3, "mode": "heterogeneous", "protect_first": 3, "protect_last": 1}, "leave none of 4 blocks"),
        ({"ratio": 0.3, "rato": 0.3}, "did you mean 'ratio'"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_what_can(model, settings, sentence):
    sites, scores, sizes = model
    with pytest.raises(InputError, match=sentence):
        validated(lambda: Ranking(**settings), "ranking", sorted(Ranking.__dataclass_fields__)).plan(
            sites, scores, *sizes
        )


def test_scores_of_another_model_are_refused(model):
    sites, scores, sizes = model
    fewer = Scores({name: values[:-1] for name, values in scores.values.items()})
    with pytest.raises(InputError, match=r"no scores for the 64 groups of 0\.mlp"):
        Ranking(ratio=0.3).plan(sites, fewer, *sizes)


def test_a_plan_is_json_and_a_table(model):
    sites, scores, sizes = model
    plan = Ranking(ratio=0.3).plan(sites, scores, *sizes)
    assert KeptGroups.of_facts(plan.facts()) == plan
    with pytest.raises(InputError, match="a plan needs mode"):
        KeptGroups.of_facts(plan.facts() | {"kept": {"0.mlp": [3, 2]}})
    table = plan_table(plan, sites)
    assert f"{plan.before:,} parameters become {plan.after:,}" in table and len(table.splitlines()) == len(sites) + 2
    first = groups_table(sites).splitlines()[1].split()
    assert first[:3] == ["0.mlp", "64", "48"]
