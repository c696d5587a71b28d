"""Charts hold the values that they were given, each line under its name, and give equal text for equal data."""

import json
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes

from pruning_core.checkpoint.layer_facts import LayerFacts
from tasks.report.charts import STYLE, LinePanel, line_chart, percent, svg
from tasks.report.drawings import allocation_chart, by_kind, draw_layers, drawings, layer_chart, profile_chart
from tasks.report.palette import COLOURS, DENSE

NASTY = '<b onload="x"> $a_b$'
ROWS = [
    {"name": "model.layers.1.mlp.up_proj", "block": 1, "sparsity": 0.8, "sensitivity": 0.25},
    {"name": "model.layers.0.mlp.up_proj", "block": 0, "sparsity": 0.6, "sensitivity": 64.0},
    {"name": "model.layers.0.self_attn.q_proj", "block": 0, "sparsity": 0.7, "sensitivity": 2.0},
]
FACTS = {"name": "owl", "target": 0.7}
PROFILE = {"matrices": {row["name"]: row["sensitivity"] for row in ROWS}, "blocks": [3.0, 4.0]}
LAYERS = (
    LayerFacts("model.layers.0.mlp.up_proj", "", rows=2, columns=4, removed=2, zeros=2, loss=None),
    LayerFacts("model.layers.2.mlp.up_proj", "", rows=2, columns=4, removed=4, zeros=4, loss=0.5),
    LayerFacts("model.layers.2.self_attn.q_proj", "", rows=2, columns=4, removed=8, zeros=8, loss=0.125),
)


def lines(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """Name in the legend -> the points of its line."""
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    drawn = {line.get_label(): line for line in axes.get_lines()}
    return {name: [*map(tuple, drawn[name].get_xydata())] for name in names}


def test_every_series_is_a_line_of_its_own_colour_and_the_target_lies_across():
    above, below = allocation_chart(FACTS, ROWS).axes
    assert lines(above) == {"up_proj": [(0, 0.6), (1, 0.8)], "q_proj": [(0, 0.7)]}
    assert lines(below) == {"up_proj": [(0, 64.0), (1, 0.25)], "q_proj": [(0, 2.0)]}
    assert [line.get_color() for line in above.get_lines()] == [*COLOURS[:2], DENSE]
    assert set(above.get_lines()[-1].get_ydata()) == {0.7}
    assert above.get_title("left") == "Sparsity by owl, target 0.7"
    assert (above.get_xlabel(), above.get_ylabel(), below.get_ylabel()) == ("block", "sparsity", "sensitivity")
    assert above.yaxis.get_major_formatter()(0.7) == percent(0.7) == "70 %"
    without = [{key: row[key] for key in ("name", "block", "sparsity")} for row in ROWS]
    assert len(allocation_chart(FACTS, without).axes) == 1


def test_a_profile_has_a_line_per_kind_of_matrix_and_one_for_the_blocks():
    kinds, blocks = profile_chart("fisher", PROFILE).axes
    assert lines(kinds) == {"up_proj": [(0, 64.0), (1, 0.25)], "q_proj": [(0, 2.0)]}
    assert lines(blocks) == {"block": [(0, 3.0), (1, 4.0)]}
    assert kinds.get_title("left") == "Sensitivity by fisher, larger = pruned less"


def test_small_values_are_not_hidden_by_large_ones_and_those_near_zero_are_drawn():
    wide, narrow, zero = ({"a": [(0, low), (1, 64.0)]} for low in (0.25, 32.0, 0.0))
    axes = line_chart([LinePanel("", "x", "y", series) for series in (wide, narrow, zero)]).axes
    assert [one.get_yscale() for one in axes] == ["log", "linear", "linear"]
    level = line_chart([LinePanel("", "x", "y", {"a": [(0, 1.0)]}, ("dense", 100.0))]).axes[0]
    assert level.get_yscale() == "log" and level.get_ylim()[1] > 100
    assert [text.get_text() for text in level.texts] == ["dense 100"]


def test_experts_of_a_block_are_one_point_at_their_mean():
    values = [(f"h.{block}.experts.{expert}.w", block, float(expert + block)) for block in (1, 0) for expert in (0, 1)]
    assert by_kind(values) == {"w": [(0, 0.5), (1, 1.5)]}


def test_the_cells_of_the_layers_hold_their_sparsity_and_loss():
    for axes, values in zip(layer_chart(LAYERS).axes, ([[0.25, 0.5], [1.0]], [[0.5], [0.125]]), strict=True):
        [mesh] = axes.collections
        cells = np.ma.filled(mesh.get_array(), np.nan)
        assert cells.shape == (2, 3)
        assert [row[~np.isnan(row)].tolist() for row in cells] == values
        assert mesh.get_clim() == (0, max(max(row) for row in values))
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "2"]
    places = {text.get_position(): text.get_text() for text in axes.texts}
    assert places == {(2.5, 0.5): "0.5", (2.5, 1.5): "0.12"}
    assert draw_layers(()) is None


def test_a_name_is_text_and_no_markup_or_formula():
    figure = line_chart([LinePanel(NASTY, NASTY, NASTY, {NASTY: [(0.0, 1.0)]}, (NASTY, 1.0))])
    text = svg(figure)
    shown = [one.text for one in ElementTree.fromstring(text).findall(".//{*}text")]
    assert shown.count(NASTY) == 4 and f"{NASTY} 1" in shown
    assert 'onload="' not in text and "<style" not in text


def test_equal_data_are_equal_text_and_the_settings_of_the_process_stay():
    before = {name: matplotlib.rcParams[name] for name in STYLE}
    texts = {svg(allocation_chart(FACTS, ROWS)) for _ in range(2)} | {svg(layer_chart(LAYERS)) for _ in range(2)}
    assert len(texts) == 2 and all(text.startswith("<svg") for text in texts)
    assert {name: matplotlib.rcParams[name] for name in STYLE} == before


@pytest.mark.parametrize("searched", [True, False])
def test_what_there_is_to_see_is_drawn_from_the_files_that_are_shown(tmp_path: Path, searched: bool):
    found = {"initial": [], "history": [], "best": []}
    contents = {"shares.json": {"matrices": ROWS}, "profile.json": PROFILE, "search.json": found, "note.txt": {}}
    for name, content in (contents | {"manifest.json": {"facts": FACTS}}).items():
        (tmp_path / name).write_text(json.dumps(content))
    drawn = drawings(tmp_path / name for name in contents if searched or name != "search.json")
    assert {*drawn} == {"allocation.svg", "profile.svg"} | ({"search.html"} if searched else set())
    assert drawn["allocation.svg"] == svg(allocation_chart(FACTS, ROWS))
    assert drawn["profile.svg"] == svg(profile_chart("owl", PROFILE))
