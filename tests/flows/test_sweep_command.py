"""The sweep as a person runs it: one variant fails, the others are made, and a second command goes on."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tasks.tracking.runs import find_runs

pytestmark = pytest.mark.slow

# 5 divides none of the tiny model's widths, so that this variant fails at its first block.
ARGUMENTS = ("sweep", "--sparsities", "0.5,0.6", "--patterns", "2:4,3:5", "--bits", "none")
SHARED = ("--set", "variants.sparsegpt-50.propagate=dense")
MADE = {"sparsegpt-2of4", "magnitude-50", "magnitude-60", "magnitude-2of4"}
FAILED = {"sparsegpt-3of5", "magnitude-3of5"}


@pytest.fixture(scope="module")
def swept(espalier, make_workspace) -> dict:
    """The workspace, the first command with its result, and the second with its tables."""
    root = make_workspace()
    first = espalier(root, *ARGUMENTS, *SHARED, "--json")
    return {"root": root, "first": first, "found": json.loads(first.out), "again": espalier(root, *ARGUMENTS, *SHARED)}


def labels(result: dict, state: str) -> Counter:
    return Counter(step["label"] for record in result["records"] for step in record["steps"] if step["state"] == state)


def test_variants_that_fail_are_told_and_do_not_stop_the_others(swept: dict):
    result = swept["found"]
    names = [record["name"] for record in result["records"]]
    assert names[0] == "dense" and set(names) > MADE and len(names) == 7
    assert set(result["failed"]) == FAILED
    assert all("divisible by 5" in reason for reason in result["failed"].values())
    [sentence] = [line for line in swept["first"].err.splitlines() if line.startswith("espalier: ")]
    assert swept["first"].code == 1 and "2 of 8 variants failed" in sentence


def test_every_variant_that_was_made_is_a_run_of_mlflow_and_so_is_their_comparison(swept: dict):
    runs = {run["run_id"]: run["name"] for run in find_runs(swept["root"])}
    made = {record["run_id"]: record["name"] for record in swept["found"]["records"]}
    # Both commands together left one of each.
    assert Counter(runs.values()) == Counter([*made.values(), "sweep"])
    assert made.items() <= runs.items()


def test_the_second_command_computes_nothing_and_shows_table_and_report(swept: dict):
    done = swept["again"]
    assert done.code == 1 and "cached" in done.err and "computed" not in done.err
    table = [line.split() for line in done.out.splitlines()]
    rows = {words[0]: words for words in table if words and words[0] in MADE | {"dense"}}
    assert set(rows) == MADE | {"dense"}
    # Which variants are on a front depends on measured speeds; the one with the lowest loss always is.
    assert {words[-1].rstrip(",") for words in rows.values()} & {"packed", "stored", "speed"}
    assert [words[0] for words in table if words and words[0] == "failed"] == ["failed"] * 2
    [report] = [Path(words[1]) for words in table if words and words[0] == "report"]
    assert "Quality against size and speed" in report.read_text()


def test_statistics_are_taken_once_for_all_variants_that_share_them(swept: dict):
    objects = (swept["root"] / ".espalier" / "objects").iterdir()
    kinds = Counter(json.loads((path / "manifest.json").read_text())["kind"] for path in objects)
    shared = [record for record in swept["found"]["records"] if "statistics" in record["parents"]]
    assert len(shared) == 3 and kinds["statistics"] == 2
    assert len({record["parents"]["statistics"]["digest"] for record in shared}) == 1
