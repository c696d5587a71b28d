"""Fronts by hand: who beats whom, noise included."""

import copy
from pathlib import Path

import pytest
from records import make_record

from tasks.records.pareto import COSTS, front, fronts
from tasks.records.variant import Variant, parse

PACKED, STORED, SPEED = COSTS


@pytest.fixture
def variant(tmp_path: Path):
    """variant(name, loss, packed, stored=100, rate=(9, 10, 11)) -> a record of these figures, tokens per second."""
    record = make_record(tmp_path, "wanda-50")

    def build(name: str, loss: float, packed: float, stored: float = 100, rate=(9, 10, 11)) -> Variant:
        own = copy.deepcopy(record) | {"name": name}
        own["metrics"]["difference_to_dense"]["mean"] = loss
        own["manifest"]["facts"]["size_bytes"] = {"stored": stored, "bitmask": packed}
        low, median, high = rate
        own["speed"]["decode_tokens_per_second"] = {"low": low, "median": median, "high": high}
        return parse(own)

    return build


def test_the_front_holds_those_that_no_other_beats_in_both(variant):
    variants = [
        variant("small", 0.5, 20),
        variant("good", 0.1, 60),
        variant("between", 0.3, 40),
        variant("worse than good", 0.2, 70),
        variant("as good and larger", 0.1, 61),
        variant("as small and worse", 0.6, 20),
    ]
    assert front(variants, PACKED) == ["good", "between", "small"]


def test_equal_variants_are_both_on_the_front(variant):
    assert front([variant("one", 0.1, 50), variant("two", 0.1, 50)], PACKED) == ["one", "two"]


def test_the_dense_model_beats_what_is_stored_as_large(variant, tmp_path: Path):
    dense = parse(make_record(tmp_path, "dense"))
    sparse = variant("sparse", 0.1, 50, stored=dense.size_bytes)
    assert front([dense, sparse], STORED) == ["dense"]
    assert front([dense, sparse], PACKED) == ["dense", "sparse"]


def test_speeds_whose_quartiles_overlap_count_as_equal(variant):
    good, level, fast = (
        variant("good", 0.1, 50, rate=(9, 10, 11)),
        variant("level", 0.2, 50, rate=(10, 12, 14)),
        variant("fast", 0.3, 50, rate=(15, 16, 17)),
    )
    assert front([good, level, fast], SPEED) == ["good", "fast"]


def test_a_negative_loss_increase_beats_dense_and_what_is_unknown_takes_no_part(variant, tmp_path: Path):
    dense = parse(make_record(tmp_path, "dense"))
    better = variant("better", -0.01, 40, stored=50)
    unmeasured = variant("unmeasured", 0.0, 1).model_copy(update={"speed": None})
    assert fronts([dense, better, unmeasured]) == {
        "dense": ["speed"],
        "better": ["packed", "stored", "speed"],
        "unmeasured": ["packed"],
    }
