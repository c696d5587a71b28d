"""Model cards: front matter that hubs parse, and tables with the figures of the record."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from export_records import VARIANT, make_export_record

from pruning_core.settings.recipe import BASELINE
from tasks.report.export_card import SHOWN_FALLBACKS, card


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    return make_export_record(tmp_path)


def section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, the head first."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if not line[0].startswith("---")]


def test_the_front_matter_is_what_model_hubs_read(record):
    text = card(record)
    start, front, body = text.split("---\n", 2)
    assert start == ""
    assert yaml.safe_load(front) == {
        "library_name": "espalier",
        "tags": ["espalier", "compressed", "sparse"],
        "pipeline_tag": "text-generation",
    }
    assert body.lstrip().startswith(f"# {VARIANT} as sparse\n")


def test_the_code_that_loads_it_is_python_that_names_the_directory(record):
    code = section(card(record), "Load").split("```")[1].removeprefix("python\n")
    compile(code, "card", "exec")
    assert 'load_model("path/of/this/directory")' in code


def test_the_tables_hold_the_figures_of_the_record(record):
    text = card(record)
    metrics = record["quality"]["export"]
    difference = metrics["difference_to_dense"]
    judged = [
        f"{metrics['perplexity']:.4g}",
        f"{difference['mean']:+.4f} ± {difference['standard_error']:.4f}",
        f"{metrics['kl_to_dense']:.4f}",
    ]
    quality = rows(section(text, "Quality"))
    assert quality[1:] == [["dense", "8.176", "", ""], [VARIANT, *judged], ["this export", *judged]]
    # 12 MB of 3 million numbers are 32 bits each; 4.5 MB are 12 bits, 3 of 8.
    assert rows(section(text, "Size"))[1:] == [
        ["dense", "12.00", "32.00", "100.0 %"],
        ["this export", "4.50", "12.00", "37.5 %"],
    ]
    assert rows(section(text, "Speed"))[1:] == [
        ["dense", "transformers", "1", "2000 (1800 to 2200)", "50.0 (45.0 to 55.0)", "64", "321"],
        ["this export", "transformers", "1", "1500 (1350 to 1650)", "40.5 (36.5 to 44.6)", "85", "321"],
    ]
    assert "6 runs each" in section(text, "Speed") and "Some Processor 9000, 4 cores" in section(text, "Speed")


def test_it_says_what_was_checked_and_what_was_not_exact(record):
    assert "is the variant's bit for bit. Of 1,234,567 zeros of the pruned matrices 1,234,567 are" in card(record)
    changed = copy.deepcopy(record)
    changed["facts"]["verified"] |= {"equal": 50, "relative_change": 0.0123, "zeros": {"before": 0, "after": 0}}
    text = section(card(changed), "What was checked")
    assert "50 of 57 are the variant's bit for bit, the others change the weights by 1.23e-02" in text
    assert "zeros" not in text


def test_the_recipe_is_yaml_with_its_fallbacks(record):
    told = section(card(record), "Recipe")
    assert yaml.safe_load(told.split("```")[1].removeprefix("yaml\n")) == record["recipe"]
    assert "2 fallbacks:" in told and "- model.layers.4.mlp.down_proj: damping_raised" in told
    record["model_facts"]["ledger"] = [{"layer": f"l{i}", "event": "dead"} for i in range(SHOWN_FALLBACKS + 3)]
    assert "- and 3 more" in section(card(record), "Recipe")
    record["model_facts"]["ledger"] = []
    assert "No fallbacks." in section(card(record), "Recipe")


def test_the_card_of_the_dense_model_has_no_recipe_and_no_row_of_a_variant(record):
    record |= {"variant": BASELINE, "recipe": {}, "model_facts": {}}
    text = card(record)
    assert "## Recipe" not in text
    assert [row[0] for row in rows(section(text, "Quality"))[1:]] == ["dense", "this export"]


def test_a_perplexity_beyond_every_float_is_told_in_words(record):
    record["quality"]["export"] = record["quality"]["export"] | {"perplexity": None}
    assert rows(section(card(record), "Quality"))[-1][1] == "beyond every float"


def test_where_it_comes_from_is_told_by_digests_the_export_last(record):
    told = section(card(record), "Where it comes from")
    chain = [(link["what"], f"`{link['digest']}`") for link in record["lineage"]["chain"]]
    assert [tuple(row) for row in rows(told)[1:]] == [*chain, ("export", f"`{record['export']['digest']}`")]
    assert "Commit `3f9d2c1ab84e0d7766f1c5b09e1a2d3c4b5a6978`; espalier 0.1.0, torch 2.13.0." in told
    record["lineage"]["git_commit"] = None
    assert "Commit" not in card(record)
