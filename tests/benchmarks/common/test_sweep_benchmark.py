"""The timing of the sweep's kernels, at toy size: what it reports follows from what it measured."""

import json
import statistics

import pytest
import torch

from benchmarks.common.sweep import SETTINGS, measure, table


@pytest.fixture(scope="module")
def raw() -> dict:
    return measure(48, 3, torch.device("cpu"), lambda line: None)


def test_kernels_that_are_compared_compute_the_same(raw):
    for setting in SETTINGS:
        numba, torch_loss = (raw["losses"][setting.name][kernel] for kernel in ("numba", "torch"))
        assert numba == pytest.approx(torch_loss, rel=1e-2)


def test_ratios_are_taken_within_a_round(raw):
    for name, seconds in raw["seconds"].items():
        pairs = zip(seconds["torch"], seconds["numba"], strict=True)
        assert raw["ratio"][name]["median"] == statistics.median(slow / fast for slow, fast in pairs)


def test_the_figures_are_json_and_the_table_shows_the_medians(raw):
    assert json.loads(json.dumps(raw)) == raw
    shown = table(raw)
    for setting in SETTINGS:
        assert f"{raw['ratio'][setting.name]['median']:.1f} [" in shown
        assert setting.name in shown
