"""The comparison report, as text and in a browser, and the rows that the terminal shows."""

import copy
import re
from pathlib import Path

import pytest
from browser import browser, needs_browser, text_of, wait_for
from records import RECIPES, make_record, make_records

from pruning_core.checkpoint.layer_facts import LayerFacts
from pruning_core.errors import InputError
from tasks.records.model_facts import experts_together
from tasks.records.variant import parse
from tasks.report.drawings import layer_chart
from tasks.report.page import comparison_table, write_report


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def report(records, tmp_path_factory) -> Path:
    return write_report(map(parse, records), Path("reports/compare.html"), tmp_path_factory.mktemp("workspace"))


def test_the_table_has_the_dense_baseline_first_and_the_others_as_given(records):
    shuffled = [records[3], records[1], records[0], records[2]]
    names = [row["name"] for row in comparison_table(map(parse, shuffled))]
    assert names == ["dense", "sparsegpt-50", "magnitude-50", "wanda-50"]


def test_a_row_repeats_the_facts_of_its_record(records):
    record = records[3]
    row = comparison_table(map(parse, records))[3]
    assert row["perplexity"] == record["metrics"]["perplexity"]
    assert row["loss_increase"] == record["metrics"]["difference_to_dense"]["mean"]
    assert row["sparsity_whole_model"] == record["manifest"]["facts"]["sparsity"]["whole_model"]
    assert row["bits_per_weight"] == record["manifest"]["facts"]["bits_per_weight"]["bitmask"]
    assert row["decode_tokens_per_second"] == record["speed"]["decode_tokens_per_second"]["median"]


def test_facts_that_are_absent_are_unknown_and_not_errors(tmp_path):
    record = make_record(tmp_path, "wanda-50")
    for name in ("manifest", "speed", "parents", "datasets", "git_commit", "dvc", "steps"):
        del record[name]
    record["metrics"] = {"perplexity": None, "protocol": record["metrics"]["protocol"]}
    [row] = comparison_table(map(parse, [record]))
    assert {row[name] for name in row if name not in ("name", "baseline", "fallbacks")} == {None}
    assert "wanda-50" in write_report(map(parse, [record]), tmp_path / "one.html", tmp_path).read_text()


def test_evaluations_under_different_protocols_are_refused_with_what_differs(records):
    other = copy.deepcopy(records[1])
    other["metrics"]["protocol"] |= {"digest": "0" * 64, "length": 512}
    with pytest.raises(InputError, match=r"dense and magnitude-50 .*length 256 and 512"):
        comparison_table(map(parse, [records[0], other]))


def test_no_record_and_the_same_variant_twice_are_refused(records):
    with pytest.raises(InputError, match="no variant"):
        comparison_table([])
    with pytest.raises(InputError, match="'wanda-50' was given twice"):
        comparison_table(map(parse, [records[0], records[2], records[2]]))


def test_equal_records_give_an_equal_file(records, report, tmp_path):
    assert write_report(map(parse, records), tmp_path / "again.html", tmp_path).read_bytes() == report.read_bytes()


def test_the_page_loads_nothing_from_elsewhere_and_holds_plotly_once(report):
    page = report.read_text()
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", page)
    assert page.count("plotly.js v") == 1
    assert not list(report.parent.glob(".*"))


def test_what_comes_from_outside_is_escaped(tmp_path):
    nasty = '<img src=x onerror="alert(1)"></script>'
    record = make_record(tmp_path, "sparsegpt-70")
    record["name"] = nasty
    record["recipe"]["saliency"]["name"] = nasty
    record["manifest"]["versions"][nasty] = nasty
    record["manifest"]["facts"]["ledger"][0]["layer"] = nasty
    record["manifest"]["facts"]["layers"][0]["name"] = f"model.layers.0.{nasty}"
    record["metrics"]["protocol"][nasty] = nasty
    record["dvc"]["path"] = record["steps"][0]["label"] = nasty
    page = write_report(map(parse, [record]), tmp_path / "nasty.html", tmp_path).read_text()
    without_plotly = re.sub(r"<script>/\*.*?</script>", "", page, count=1, flags=re.DOTALL)
    assert len(without_plotly) < 100_000
    assert without_plotly.count("&lt;img src=x") >= 7
    assert "<img" not in without_plotly
    assert 'onerror="' not in without_plotly


def test_the_matrices_of_experts_are_shown_together():
    sizes = {"rows": 2, "columns": 8}
    layers = tuple(
        LayerFacts(f"model.layers.{block}.mlp.{name}", "", **sizes, removed=4, zeros=4 + expert, loss=float(expert))
        for block in (0, 1)
        for expert, name in enumerate(("experts.0.up_proj", "experts.1.up_proj", "gate_proj"))
    )
    together = experts_together(layers)
    assert [layer.name for layer in together] == [
        f"model.layers.{block}.mlp.{name}" for block in (0, 1) for name in ("experts.up_proj", "gate_proj")
    ]
    assert [(layer.rows, layer.zeros, layer.loss) for layer in together[:2]] == [(4, 9, 1.0), (2, 6, 2.0)]
    assert together[0].sparsity == 9 / 32
    modules = [[label.get_text() for label in axes.get_yticklabels()] for axes in layer_chart(layers).axes]
    assert modules == [["mlp.experts.up_proj", "mlp.gate_proj"]] * 2


@pytest.mark.slow
@needs_browser
def test_a_browser_shows_the_table_the_plots_and_the_details(report, tmp_path):
    with browser() as driver:
        driver.get(report.as_uri())
        drawn = wait_for(lambda: len(driver.find_elements("css selector", ".main-svg")) >= 4)
        driver.save_screenshot(str(tmp_path / "report.png"))
        assert drawn, text_of(driver)
        cells = driver.find_elements("css selector", "#comparison tbody tr")
        assert [cell.text.split()[0] for cell in cells] == list(RECIPES)
        assert "8.863" in cells[3].text
        assert "model.layers.4.mlp.down_proj" not in text_of(driver)
        driver.find_elements("css selector", "#comparison tbody a")[4].click()
        assert wait_for(lambda: "model.layers.4.mlp.down_proj" in text_of(driver))
        overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert driver.execute_script(overflow) == 0
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
