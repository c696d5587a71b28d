"""Gates on records of known figures: each limit from both sides, and what cannot be judged does not pass."""

import json

import pytest
from records import make_record

from pruning_core.settings.schedule import build_schedule
from tasks.promotion.gates import Champion, check_gates
from tasks.records.variant import Variant, parse


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("records")
    return {name: make_record(folder, name) for name in ("dense", "sparsegpt-50", "sparsegpt-70")}


def verdict(records, gates: dict, name: str = "sparsegpt-50", champion: Champion | None = None):
    [found] = check_gates(
        build_schedule({"gates": gates}, ()).gates, parse(records[name]), parse(records["dense"]), champion
    )
    return found


def around(value: float) -> list[tuple[float, bool]]:
    """A limit just below what is measured, and one just above."""
    return [(value * 0.999, False), (value * 1.001, True)]


def test_perplexity_is_held_against_the_dense_models(records):
    ratio = records["sparsegpt-50"]["metrics"]["perplexity"] / records["dense"]["metrics"]["perplexity"]
    for limit, passes in around(ratio):
        found = verdict(records, {"perplexity": limit})
        assert found.passed is passes and found.value == pytest.approx(ratio)
        assert "times the dense model's" in found.reason


def test_kl_is_held_against_its_limit(records):
    for limit, passes in around(records["sparsegpt-50"]["metrics"]["kl_to_dense"]):
        assert verdict(records, {"kl": limit}).passed is passes


def test_accuracy_may_be_so_far_below_the_dense_models(records):
    answered = json.loads(json.dumps(records))
    for name, accuracy in (("dense", 0.5), ("sparsegpt-50", 0.45)):
        answered[name]["judged"] = {"tasks": {}, "mean_accuracy": accuracy, "protocol": {"digest": "a"}}
    for limit, passes in around(0.05):
        found = verdict(answered, {"accuracy": limit})
        assert found.passed is passes and found.value == pytest.approx(0.05)
        assert "below the dense model's mean accuracy" in found.reason
    answered["dense"]["judged"]["protocol"] = {"digest": "b"}
    other = verdict(answered, {"accuracy": 1.0})
    assert not other.passed and other.value is None
    assert not verdict(records, {"accuracy": 1.0}).passed


@pytest.mark.parametrize("measure", ["stored", "bitmask"])
def test_size_is_a_share_of_the_dense_models_stored_bytes(records, measure: str):
    own = {"stored": 900, "bitmask": 600}
    sized = json.loads(json.dumps(records))
    sized["sparsegpt-50"]["manifest"]["facts"]["size_bytes"] = own
    sized["dense"]["manifest"]["facts"]["size_bytes"] = {"stored": 1000, "bitmask": 1000}
    for limit, passes in around(own[measure] / 1000):
        found = verdict(sized, {"size": {measure: limit}})
        assert found.passed is passes and found.gate == f"size.{measure}"


def test_the_ledger_counts_events(records):
    assert verdict(records, {"ledger": 0}).passed
    assert not verdict(records, {"ledger": 1}, "sparsegpt-70").passed
    assert verdict(records, {"ledger": 2}, "sparsegpt-70").passed


def test_what_is_not_known_does_not_pass(records):
    unknown = json.loads(json.dumps(records))
    unknown["sparsegpt-50"]["metrics"]["perplexity"] = None
    found = verdict(unknown, {"perplexity": 1e9})
    assert not found.passed and found.value is None and "is not known" in found.reason


def champion(variant: Variant, shift: float, **changes) -> Champion:
    """A champion whose loss is lower by `shift` in every window."""
    facts = {"losses": [loss - shift for loss in variant.window_losses()], "protocol": variant.protocol_digest}
    return Champion(**{"version": "3", "name": "old", "digest": "0" * 64} | facts | changes)


@pytest.mark.parametrize(("shift", "margin", "passes"), [(0.01, 0, False), (0.01, 0.02, True), (-0.01, 0, True)])
def test_the_champion_is_matched_window_by_window_within_the_margin(records, shift, margin, passes):
    own = parse(records["sparsegpt-50"])
    found = verdict(records, {"champion": {"margin": margin}}, champion=champion(own, shift))
    assert found.passed is passes
    assert found.value == pytest.approx(shift) and "version 3, old" in found.reason


def test_the_first_variant_meets_no_champion_and_the_champion_itself_passes(records):
    own = parse(records["sparsegpt-50"])
    assert verdict(records, {"champion": True}).passed
    assert verdict(records, {"champion": True}, champion=champion(own, 9, digest=own.model.digest)).passed


def test_a_champion_that_does_not_compare_is_not_replaced(records):
    own = parse(records["sparsegpt-50"])
    other = verdict(records, {"champion": True}, champion=champion(own, -1, protocol="f" * 64))
    gone = verdict(records, {"champion": True}, champion=champion(own, -1, problem="its model is gone"))
    assert not other.passed and "do not compare" in other.reason
    assert not gone.passed and "its model is gone" in gone.reason


def test_gates_that_are_not_set_let_everything_pass(records):
    gates = build_schedule({}, ()).gates
    assert check_gates(gates, parse(records["sparsegpt-70"]), parse(records["dense"]), None) == []


def test_a_value_a_hair_above_the_limit_is_shown_with_the_digits_that_tell(records):
    own = records["sparsegpt-50"]["metrics"]["kl_to_dense"]
    found = verdict(records, {"kl": own * (1 - 1e-9)})
    shown = float(found.reason.split(" ")[0])
    assert not found.passed and shown > found.limit
