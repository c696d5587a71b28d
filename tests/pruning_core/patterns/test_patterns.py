"""Patterns against slow obvious selections."""

import pytest
import torch

from pruning_core.errors import InputError
from pruning_core.patterns import PATTERNS


def scores(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("rows", "columns", "height", "width"), [(8, 12, 2, 3), (7, 11, 2, 4), (5, 9, 1, 4), (4, 4, 16, 16)]
)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.75])
def test_tiles_go_by_lowest_mean_until_the_budget_is_met(rows, columns, height, width, sparsity):
    score = scores(rows, columns)
    pattern = PATTERNS.build({"name": "block", "rows": height, "columns": width})
    tiles = []
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            part = score[top : top + height, left : left + width]
            tiles.append((part.double().mean().item(), top, left))
    expected = torch.zeros(rows, columns, dtype=torch.bool)
    for _, top, left in sorted(tiles):
        if int(expected.sum()) >= round(sparsity * rows * columns):
            break
        expected[top : top + height, left : left + width] = True
    gone = pattern.removed(score, sparsity, 128)
    assert torch.equal(gone, expected)
    assert pattern.fault(~gone, sparsity) is None


def test_a_torn_tile_is_a_fault():
    pattern = PATTERNS.build({"name": "block", "rows": 2, "columns": 2})
    keep = torch.ones(4, 4, dtype=torch.bool)
    keep[0, 0] = False
    assert "1 tiles of 2x2 are neither whole nor empty" in pattern.fault(keep, 0.0)


@pytest.mark.parametrize("sparsity", [0.0, 0.29, 0.5, 0.8])
def test_the_published_count_is_one_more_per_block_or_matrix_and_every_tie(sparsity: float):
    score = scores(7, 30)
    for scope, parts in (("matrix", [score]), ("block", score.split(16, dim=1))):
        pattern = PATTERNS.build({"name": "unstructured", "scope": scope, "rounding": "published"})
        gone = pattern.removed(score, sparsity, 16)
        assert int(gone.sum()) == sum(int(part.numel() * sparsity) + 1 for part in parts)
        assert pattern.fault(~gone, sparsity) is None
    assert pattern.removed(torch.ones(4, 8), sparsity, 16).all()


def test_fewer_than_the_published_count_is_a_fault():
    pattern = PATTERNS.build({"name": "unstructured", "rounding": "published"})
    assert pattern.fault(torch.ones(4, 8) > 0, 0.5) == "0 weights were removed where the budget is 16 at least"


@pytest.mark.parametrize(("ragged", "kept"), [("dense", 3), ("proportional", 2), ("published", 0)])
def test_a_ragged_last_group_follows_its_named_rule(ragged, kept):
    # 11 = 2 * 4 + 3: of the last three, ceil(2 * 3 / 4) = 2 is the proportional share.
    pattern = (
        PATTERNS.build({"name": "n_of_m", "n": 2, "m": 4, "ragged": ragged})
        if ragged != "published"
        else (PATTERNS.build({"name": "n_of_m", "n": 1, "m": 4, "ragged": ragged}))
    )
    gone = pattern.removed(scores(5, 11), None, 128)
    assert (~gone[:, 8:]).sum(dim=1).tolist() == [kept] * 5
    assert pattern.fault(~gone, None) is None
    assert pattern.fault(gone, None) is not None


def test_a_ragged_width_is_refused_by_default_with_the_rules_named():
    with pytest.raises(InputError, match="divisible by 4, got 11; set ragged to dense, proportional or published"):
        PATTERNS.build({"name": "n_of_m", "n": 2, "m": 4}).check(11)


def test_the_alpha_search_gives_every_row_the_same_share_of_score_mass():
    score = scores(40, 64).square()
    pattern = PATTERNS.build({"name": "alpha_search"})
    gone = pattern.removed(score, 0.5, 128)
    assert abs(float(gone.float().mean()) - 0.5) <= 0.02
    linear = score.double().sqrt()
    lost = (linear * gone).sum(dim=1) / linear.sum(dim=1)
    following = torch.where(gone, torch.inf, linear).amin(dim=1) / linear.sum(dim=1)
    # One alpha fits all rows: none has lost more than it, each would with one weight more.
    assert float(lost.max()) <= float((lost + following).min())


def test_existing_zeros_are_all_that_goes():
    weight = scores(6, 10)
    weight[weight < 0.4] = 0
    gone = PATTERNS.build({"name": "existing"}).removed(weight.square(), None, 128)
    assert torch.equal(gone, weight == 0)
