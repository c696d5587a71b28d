"""The plots of a search show the numbers of its history."""

from pathlib import Path

from records import make_records

from tasks.records.variant import parse
from tasks.report.plots import search_convergence
from tasks.report.search_page import convergence, profile, search_page

FOUND = {
    "initial": [
        {"label": "uniform", "genome": [1, 1], "fitness": 0.5},
        {"label": "<owl>", "genome": [0, 2], "fitness": 0.4},
        {"label": "varied 1", "genome": [2, 0], "fitness": 0.6},
    ],
    "history": [
        {"generation": 1, "fitness": 0.3, "validation": 0.42, "best": 0.4, "tokens": 1000},
        {"generation": 2, "fitness": 0.2, "validation": 0.31, "best": 0.31, "tokens": 1800},
    ],
    "best": [1, 1],
}
ROWS = [
    {"name": "model.layers.0.mlp.up_proj", "block": 0, "sparsity": 0.6},
    {"name": "model.layers.1.mlp.up_proj", "block": 1, "sparsity": 0.8},
    {"name": "model.layers.0.self_attn.q_proj", "block": 0, "sparsity": 0.7},
]


def points(trace) -> list[tuple]:
    return list(zip(trace.x, trace.y, strict=True))


def test_convergence_goes_by_tokens_and_names_the_starts_that_are_allocations():
    figure = convergence(FOUND)
    assert points(figure.data[0]) == [(1000, 0.4), (1800, 0.31)]
    assert points(figure.data[1]) == [(1000, 0.42), (1800, 0.31)]
    assert [annotation.text for annotation in figure.layout.annotations] == ["uniform", "&lt;owl&gt;"]


def test_the_profile_has_a_curve_per_kind_over_the_blocks():
    figure = profile(ROWS, 0.7)
    assert {trace.name: points(trace) for trace in figure.data} == {
        "up_proj": [(0, 0.6), (1, 0.8)],
        "q_proj": [(0, 0.7)],
    }


def test_the_page_is_the_same_for_the_same_search_and_loads_nothing():
    page = search_page(FOUND, ROWS, 0.7)
    assert page == search_page(FOUND, ROWS, 0.7)
    assert "<script src" not in page and "<link" not in page


def test_the_comparison_begins_each_search_at_its_best_start_and_shows_no_other_variant(tmp_path: Path):
    found = enumerate(make_records(tmp_path))
    made = [parse({**record, "search": FOUND} if number == 2 else record) for number, record in found]
    (trace,) = search_convergence(made).data
    assert trace.name == made[2].name and points(trace) == [(0, 0.4), (1000, 0.4), (1800, 0.31)]
