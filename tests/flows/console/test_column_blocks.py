"""Tables on terminals that are too narrow for them: every figure is there, and no line is too long."""

import io

import pytest
from rich.console import Console

from flows.console import sweep_table, tables
from flows.console.column_blocks import Columns
from tasks.records.variant import Variant, parse

CELLS = {
    "variant": ["dense", "sparsegpt-50-2of4-int4"],
    "ppl": ["6.72", "1,234.56"],
    "loss vs dense": ["-", "+0.119 ± 0.008"],
    "tasks": ["67.4 %", "61.2 %"],
    "front": ["packed, stored, speed", ""],
}


def lines(columns: Columns, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    columns.print(console)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [24, 32, 40, 60, 80, 120])
def test_no_line_is_too_long_and_no_figure_is_cut(width: int):
    printed = lines(Columns(CELLS, frozenset({"front"})), width)
    assert max(map(len, printed)) <= width
    text = "\n".join(printed)
    for title in ("ppl", "loss vs dense", "tasks"):
        assert all(figure in text for figure in [title, *CELLS[title]])
    assert text.count("packed,") == 1


def test_what_fits_is_one_table_and_what_does_not_goes_on_below_with_the_names():
    assert "" not in lines(Columns(CELLS, frozenset({"front"})), 80)
    figures = {title: cells for title, cells in CELLS.items() if title != "front"}
    printed = lines(Columns(figures), 44)
    empty = printed.index("")
    assert printed[0].split() == ["variant", "ppl"] and printed[empty + 1].split()[0] == "variant"
    assert [row for row in printed if row.startswith("sparsegpt")][-1].endswith("61.2 %")


def record(name: str, place: int) -> Variant:
    recipe = {} if name == "dense" else {"saliency": {"name": "wanda"}}
    loss = {"mean": 0.1 * place, "standard_error": 0.012}
    rate = {"median": 1234.0 + place, "low": 1200.0, "high": 1300.0}
    facts = {
        "sparsity": {"prunable": 0.5, "whole_model": 0.4},
        "bits_per_weight": {"stored": 16.0, "bitmask": 9.98},
        "size_bytes": {"stored": 5.66e6, "bitmask": 3.53e6},
    }
    known = {
        "name": name,
        "recipe": recipe,
        "model": {"digest": name},
        "evaluation": {"digest": name},
        "manifest": {"facts": facts},
        "metrics": {
            "perplexity": 7.4351 + place,
            "kl_to_dense": 0.111 * place,
            "top1_agreement": 1 - 0.123 * place,
            "difference_to_dense": loss,
            "protocol": {"digest": "p"},
        },
        "judged": {"tasks": {}, "mean_accuracy": 0.674 - 0.01 * place, "protocol": {"digest": "t"}},
        "speed": {"decode_tokens_per_second": rate},
    }
    return parse(known)


def test_the_comparison_with_tasks_loses_no_figure_at_80_characters(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    tables.print_comparison([record("dense", 0), record("sparsegpt-2of4", 1)])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 and "…" not in out
    for figure in ("8.44", "+0.100 ± 0.012", "0.111", "87.7 %", "66.4 %", "50.0 %", "9.98", "1,235"):
        assert figure in out


def test_the_table_of_a_sweep_stays_one_at_80_characters(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = {"records": [record("dense", 0), record("sparsegpt-2of4", 1)], "skipped": [], "failed": {}, "report": "r"}
    sweep_table.print_sweep(found)
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["variant", "ppl", "loss", "vs", "dense", "removed", "MB", "packed", "tok/s", "front"]
    assert [line.split()[0] for line in out if line.startswith(("dense", "sparse"))] == ["dense", "sparsegpt-2of4"]
