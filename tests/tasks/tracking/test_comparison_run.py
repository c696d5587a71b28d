"""The run of a comparison: made once, found again, its page replaced when it changed, and shown by MLflow's own UI."""

import copy
from pathlib import Path

import pytest
from browser import browser, needs_browser, wait_for
from records import make_records

from flows.actions.reproduce import reproduce_run
from flows.servers import ui_servers
from pruning_core.errors import InputError
from tasks.records.variant import parse
from tasks.report.page import write_report
from tasks.tracking.comparison_run import track_comparison
from tasks.tracking.connection import connect
from tasks.tracking.run_index import Run, artifact_folder
from tasks.tracking.runs import find_runs, track_variant

NAMES = ("dense", "wanda-50", "sparsegpt-70")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compared workspace")


@pytest.fixture(scope="module")
def records(workspace: Path) -> list[dict]:
    made = make_records(workspace / ".espalier", NAMES)
    return [record | {"run_id": track_variant(workspace, parse(record), []).run_id} for record in made]


def compared(workspace: Path, records: list[dict]) -> Run:
    """The run, after writing the page and tracking it."""
    variants = [parse(record) for record in records]
    page = write_report(variants, Path("reports/comparison.html"), workspace)
    run_id = track_comparison(workspace, page, variants).run_id
    [run] = [run for run in find_runs(workspace) if run["run_id"] == run_id]
    return run


def shown(workspace: Path, run: Run) -> str:
    return (artifact_folder(workspace, run) / "comparison.html").read_text()


def comparisons(workspace: Path) -> list[Run]:
    return [run for run in find_runs(workspace) if run["tags"].get("kind") == "comparison"]


def test_the_run_holds_the_page_and_names_the_variants_and_their_runs(workspace: Path, records: list[dict]):
    run = compared(workspace, records)
    assert shown(workspace, run) == (workspace / "reports" / "comparison.html").read_text()
    assert run["name"] == "comparison"
    told = {key.removeprefix("run."): value for key, value in run["tags"].items() if key.startswith("run.")}
    assert told == {record["name"]: record["run_id"] for record in records}
    assert {run_id for run_id in told.values()} <= {run["run_id"] for run in find_runs(workspace)}
    assert "perplexity 8.176" in run["tags"]["mlflow.note.content"]


def test_the_same_comparison_again_writes_nothing(workspace: Path, records: list[dict]):
    run = compared(workspace, records)
    before = shown(workspace, run)
    again = copy.deepcopy(records)
    for step in again[1]["steps"]:
        step["state"] = "Cached"
    assert compared(workspace, again) == run
    assert shown(workspace, run) == before != (workspace / "reports" / "comparison.html").read_text()
    assert len(comparisons(workspace)) == 1


def test_a_page_that_says_something_else_replaces_the_one_before(workspace: Path, records: list[dict]):
    run = compared(workspace, records)
    later = [record | {"git_commit": "0" * 40} for record in records]
    changed = compared(workspace, later)
    assert changed["run_id"] == run["run_id"] and "git checkout 000000000000" in shown(workspace, changed)
    (artifact_folder(workspace, run) / "comparison.html").unlink()
    assert "git checkout 000000000000" in shown(workspace, compared(workspace, later))
    assert len(comparisons(workspace)) == 1


def test_other_variants_are_another_comparison_and_a_killed_one_is_replaced(workspace: Path, records: list[dict]):
    whole, part = compared(workspace, records), compared(workspace, records[:2])
    assert part["run_id"] != whole["run_id"] and part in comparisons(workspace) and whole in comparisons(workspace)
    with connect(workspace) as client:
        client.update_run(part["run_id"], "RUNNING")
    assert part["run_id"] not in {run["run_id"] for run in comparisons(workspace)}
    anew = compared(workspace, records[:2])
    assert anew["run_id"] != part["run_id"] and len(comparisons(workspace)) == 2


def test_a_comparison_cannot_be_reproduced_but_its_variants_are_named(
    workspace: Path, records: list[dict], monkeypatch
):
    run = compared(workspace, records)
    monkeypatch.chdir(workspace)
    with pytest.raises(InputError, match=f"is a comparison; .* wanda-50 {records[1]['run_id'][:12]}"):
        reproduce_run(run["run_id"], False, True)


@pytest.mark.slow
@pytest.mark.long
@needs_browser
def test_mlflows_ui_shows_the_page_with_its_plots(workspace: Path, records: list[dict], tmp_path: Path):
    run = compared(workspace, records)
    running = ui_servers.start(workspace, ["mlflow"])
    try:
        with browser() as driver:
            place = f"/#/experiments/{run['experiment_id']}/runs/{run['run_id']}/artifacts/comparison.html"
            driver.get(running["mlflow"]["url"] + place)
            frames = wait_for(lambda: driver.find_elements("css selector", "iframe"))
            driver.save_screenshot(str(tmp_path / "mlflow.png"))
            assert frames, driver.page_source[-2000:]
            driver.switch_to.frame(frames[0])
            assert wait_for(lambda: len(driver.find_elements("css selector", ".main-svg")) >= 4)
            driver.save_screenshot(str(tmp_path / "mlflow.png"))
            rows = driver.find_elements("css selector", "#comparison tbody tr")
            assert [row.text.split()[0] for row in rows] == list(NAMES)
            driver.find_elements("css selector", "#comparison tbody a")[2].click()
            fold = driver.find_element("id", "variant-3")
            assert wait_for(lambda: fold.get_attribute("open")) and "damping_raised" in fold.text
    finally:
        ui_servers.stop(workspace)
