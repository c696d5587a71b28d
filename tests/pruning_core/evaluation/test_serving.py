"""Speed of served models: rows that say what was measured, and an engine that fails is told."""

from dataclasses import asdict
from pathlib import Path

import pytest

from pruning_core.errors import ComputationError
from pruning_core.evaluation.serving import Load, Served, measure_served
from pruning_core.evaluation.speed import Rate

pytestmark = pytest.mark.slow

LOAD = Load(batches=(1, 2), prompt=8, generated=4, repeats=2, warmup=1, rounds=1)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the processes that measure import stub_engine."""
    root = Path(__file__).resolve().parents[3]
    monkeypatch.setenv("PYTHONPATH", f"{root}:{root / 'tests' / 'helpers'}")


def test_each_model_has_a_row_per_batch_with_the_rates_of_its_own_engine(engines, tiny_directory):
    models = {
        "dense": Served(tiny_directory),
        "export": Served(tiny_directory, "fixed_rates", module="stub_engine:fixed_rates"),
    }
    done = []
    rows = measure_served(models, LOAD, lambda *turn: done.append(turn))
    assert done == [(1, 2), (2, 2)]
    assert [(row["model"], row["engine"], row["batch"]) for row in rows] == [
        ("dense", "transformers", 1),
        ("dense", "transformers", 2),
        ("export", "fixed_rates", 1),
        ("export", "fixed_rates", 2),
    ]
    # b * 8 prompt tokens in b seconds, b * 4 generated ones in 2 b; the first token is there when the prompt is read.
    for row in rows[2:]:
        assert row["prefill"] == asdict(Rate(8.0, 8.0, 8.0)) and row["decode"] == asdict(Rate(2.0, 2.0, 2.0))
        assert row["first_token"] == dict.fromkeys(("median", "lower_quartile", "upper_quartile"), float(row["batch"]))
    for row in rows[:2]:
        assert all(row[part]["lower_quartile"] <= row[part]["median"] for part in ("prefill", "decode", "first_token"))
        assert row["first_token"]["median"] == row["batch"] * 8 / row["prefill"]["median"] > 0
        assert row["peak_bytes"] >= row["before_bytes"] > 2**20


def test_the_peak_is_that_of_loading_and_running(engines, tiny_directory):
    models = {name: Served(tiny_directory, name, module=f"stub_engine:{name}") for name in ("fixed_rates", "filling")}
    held = [row for row in measure_served(models, LOAD) if row["batch"] == 1]
    taken = {row["model"]: row["peak_bytes"] - row["before_bytes"] for row in held}
    # Nothing of what imports took for a while is in it.
    assert taken == {"fixed_rates": pytest.approx(0, abs=5e6), "filling": pytest.approx(100e6, abs=5e6)}


def test_an_engine_that_fails_is_told_with_its_reason(engines, tiny_directory):
    models = {"export": Served(tiny_directory, "failing", module="stub_engine:failing")}
    with pytest.raises(ComputationError, match="could not be run: ValueError: tiny is of an unknown architecture"):
        measure_served(models, LOAD)
