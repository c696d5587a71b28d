"""The run of an export: one, child of its variant's run, found again, and made anew where it was killed."""

import copy
from pathlib import Path
from typing import Any

import pytest
from export_records import VARIANT, make_export_record
from records import make_record

from tasks.records.variant import parse
from tasks.report.export_card import card
from tasks.tracking.connection import connect
from tasks.tracking.export_run import track_export
from tasks.tracking.run_index import Run, artifact_folder
from tasks.tracking.runs import TrackedRun, find_runs, track_variant


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def variant(workspace: Path) -> dict[str, Any]:
    """A tracked variant."""
    made = make_record(workspace / ".espalier", VARIANT)
    return made | {"run_id": track_variant(workspace, parse(made), []).run_id}


@pytest.fixture(scope="module")
def record(workspace: Path, variant: dict[str, Any]) -> dict[str, Any]:
    return make_export_record(workspace / ".espalier", variant)


def tracked(workspace: Path, record: dict[str, Any]) -> TrackedRun:
    """As the flow does it."""
    page = workspace / "README.md"
    page.write_text(card(record))
    return track_export(workspace, record, page)


def exports(workspace: Path) -> list[Run]:
    return [run for run in find_runs(workspace) if run["tags"].get("kind") == "export"]


def test_an_export_is_one_run_below_that_of_its_variant(workspace, variant, record):
    made = tracked(workspace, record)
    (run,) = exports(workspace)
    assert run["run_id"] == made.run_id and not made.reused
    assert run["name"] == f"{VARIANT} as sparse"
    wanted = {"format": "sparse", "variant": VARIANT, "mlflow.parentRunId": variant["run_id"]}
    assert wanted.items() <= run["tags"].items()
    assert run["tags"]["artifact.digest"] == record["export"]["digest"]
    assert run["tags"]["mlflow.note.content"] == (artifact_folder(workspace, run) / "README.md").read_text()
    assert run["metrics"] == pytest.approx(
        {
            "perplexity": record["quality"]["export"]["perplexity"],
            "loss_increase": record["quality"]["export"]["difference_to_dense"]["mean"],
            "kl_to_dense": record["quality"]["export"]["kl_to_dense"],
            "bits_per_weight": 12.0,
            "size_mb": 4.5,
            "prefill_tok_s": 1500.0,
            "decode_tok_s": 40.5,
        },
        rel=1e-5,
    )


def test_the_same_export_again_is_found_and_nothing_is_written(workspace, record):
    before = tracked(workspace, record).run_id
    (run,) = exports(workspace)
    page = artifact_folder(workspace, run) / "README.md"
    written = page.stat().st_mtime_ns
    assert tracked(workspace, record) == TrackedRun(before, reused=True)
    assert exports(workspace) == [run] and page.stat().st_mtime_ns == written


def test_another_speed_is_written_into_the_same_run(workspace, record):
    before = tracked(workspace, record).run_id
    faster = copy.deepcopy(record)
    faster["serving"]["rows"][1]["decode"]["median"] = 99.0
    assert tracked(workspace, faster) == TrackedRun(before, reused=True)
    (run,) = exports(workspace)
    assert run["metrics"]["decode_tok_s"] == 99.0
    assert "99.0 (" in (artifact_folder(workspace, run) / "README.md").read_text()


def test_a_page_that_was_removed_is_written_again(workspace, record):
    tracked(workspace, record)
    (run,) = exports(workspace)
    (artifact_folder(workspace, run) / "README.md").unlink()
    tracked(workspace, record)
    assert (artifact_folder(workspace, run) / "README.md").read_text() == card(record)


def test_one_that_was_killed_while_it_was_written_is_replaced(workspace, record):
    killed = tracked(workspace, record).run_id
    with connect(workspace) as client:
        client.update_run(killed, "RUNNING")
    made = tracked(workspace, record)
    assert made.run_id != killed and not made.reused
    assert [run["run_id"] for run in exports(workspace)] == [made.run_id]
    assert killed not in {run["run_id"] for run in find_runs(workspace, status=None)}


def test_without_a_run_of_its_variant_an_export_has_no_parent(workspace, record):
    alone = copy.deepcopy(record)
    alone["model"]["key"] = alone["export"]["key"] = "f" * 64
    run_id = tracked(workspace, alone).run_id
    (run,) = [run for run in exports(workspace) if run["run_id"] == run_id]
    assert "mlflow.parentRunId" not in run["tags"] and run["tags"]["parent.variant.digest"] == record["model"]["digest"]
