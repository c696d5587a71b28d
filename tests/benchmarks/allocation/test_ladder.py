"""The ladder of allocations and the starts of the search, on a tiny model."""

import json

import pytest

from benchmarks.allocation import __main__, starts
from benchmarks.allocation.entries import RUNGS, ladders
from benchmarks.allocation.page import closed
from benchmarks.allocation.starts import tokens_until
from benchmarks.quality.entries import PAPERS
from pruning_core.errors import InputError
from tasks.workspace.params import read_params

SEARCH = {
    "generations": 3,
    "offspring": 4,
    "survivors": [2, 1],
    "tokens": [16, 32],
    "population": 7,
    "probes": 2,
    "probe_tokens": 16,
    "levels": 6,
    "length": 16,
    "windows": 12,
    "validation": 4,
}


@pytest.fixture
def run(run_benchmark):
    """run(app, *arguments) in a workspace with a tiny model; returns its sections and the folder of its figures."""
    return lambda app, *arguments: run_benchmark(app, "--search", json.dumps(SEARCH), *arguments)


def test_every_rung_is_made_at_one_budget_and_judged(run):
    pages, folder = run(__main__.app, "--only", "wanda-60", "--seeds", "2", "--name", "tiny")
    facts = json.loads((folder / "page-ladder-tiny.json").read_text())
    (only,) = facts["ladders"]
    assert [rung["name"] for rung in only["rungs"]] == [*RUNGS]
    runs = [run for rung in only["rungs"] for run in rung["runs"]]
    assert len(runs) == 2 * len(RUNGS) and {run["seed"] for run in runs} == {0, 1}
    assert max(run["zeros"] for run in runs) - min(run["zeros"] for run in runs) < 1e-3
    text = pages["ladder-tiny"]
    assert all(title in text for title, _ in RUNGS.values())
    uniform, searched = only["rungs"][0], only["rungs"][-1]
    shares = [
        1 - own["above_dense"] / base["above_dense"]
        for own, base in zip(searched["runs"], uniform["runs"], strict=True)
    ]
    assert closed(searched, uniform) == pytest.approx(shares)
    assert f"{100 * sum(shares) / 2:.1f} %" in text
    for search in only["searches"]:
        assert search["fitness"] <= min(start["fitness"] for start in search["initial"])


def test_starts_are_one_search_begun_elsewhere(run):
    pages, folder = run(starts.app, "--ladder", "wanda-60", "--seeds", "1")
    facts = json.loads((folder / "page-starts.json").read_text())
    assert [*facts["starts"]] == ["informed", "uniform", "random"]
    for (own,) in facts["starts"].values():
        best = [fitness for _, fitness in own["path"]]
        assert best == sorted(best, reverse=True) and own["final"] == best[-1] <= own["begun"]
    assert "The informed search is where the one from random starts ends" in pages["starts"]


def test_tokens_are_counted_to_the_first_generation_that_is_as_good():
    run = {"path": [[10, 0.9], [20, 0.7], [30, 0.7]]}
    assert [tokens_until(run, fitness) for fitness in (1.0, 0.9, 0.8, 0.7, 0.6)] == [10, 10, 20, 20, None]


def test_ladders_differ_in_the_allocation_alone():
    for one in ladders(read_params(PAPERS)["variants"], (0, 1)):
        recipes = {
            json.dumps({key: value for key, value in entry.recipe.items() if key != "allocation"}, sort_keys=True)
            for entry in one.entries.values()
        }
        assert len(recipes) == 1
        assert {entry.recipe["propagate"] for entry in one.entries.values()} == {"dense"}


def test_an_unknown_ladder_is_told(run):
    with pytest.raises(InputError, match="no ladder begins with"):
        run(__main__.app, "--only", "sparsegpt-99")
    with pytest.raises(InputError, match="'sparsegpt-99' is no ladder"):
        run(starts.app, "--ladder", "sparsegpt-99")
