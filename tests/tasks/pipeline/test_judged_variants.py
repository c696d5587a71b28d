"""Answers to tasks, from params.yaml to the table, the report, MLflow and DVC's metrics."""

import json
from pathlib import Path

import pytest
import yaml
from pipelines import computed, pipeline_of

from flows.actions.inspect import explain_variant, lineage_of
from pruning_core.errors import InputError
from pruning_core.settings.recipe import BASELINE
from tasks.lineage.collect_record import variant_record
from tasks.records.comparison import comparison_table
from tasks.records.variant import parse
from tasks.report.page import write_report
from tasks.tracking.run_contents import headline, lm_eval_metrics
from tasks.versioning import place_figures
from tasks.workspace.workspace import Workspace

DOMAIN = {"name": "domain", "items": 10, "context": 6, "continuation": 3}


@pytest.fixture
def judged_root(workspace_root: Path) -> Path:
    params = yaml.safe_load((workspace_root / "params.yaml").read_text())
    params["evaluation"]["tasks"] = [DOMAIN]
    (workspace_root / "params.yaml").write_text(yaml.safe_dump(params))
    return workspace_root


def records(root: Path) -> list[dict]:
    pipeline, _ = pipeline_of(root)
    workspace = Workspace.open(root)
    return [variant_record(workspace, pipeline, name, []).as_json() for name in (BASELINE, "magnitude-50")]


def test_accuracies_reach_table_report_run_and_metrics(judged_root: Path, monkeypatch):
    dense, variant = records(judged_root)
    told = {record["name"]: record["judged"]["tasks"]["domain"] for record in (dense, variant)}
    rows = comparison_table(map(parse, [dense, variant]))
    assert [row["accuracy"] for row in rows] == [told["dense"]["accuracy"], told["magnitude-50"]["accuracy"]]
    paired = told["magnitude-50"]["to_dense"]["accuracy"]
    assert paired["difference"] == pytest.approx(rows[1]["accuracy"] - rows[0]["accuracy"])
    assert paired["gained"] - paired["lost"] == round(10 * paired["difference"])
    page = write_report(map(parse, [dense, variant]), Path("report.html"), judged_root).read_text()
    assert "10 items, of which guessing gets 25.0%" in page
    assert f"{paired['lost']} lost, {paired['gained']} gained" in page
    known = parse(variant)
    assert headline(known)["accuracy"] == pytest.approx(rows[1]["accuracy"])
    assert lm_eval_metrics(known)["accuracy_difference/domain"] == pytest.approx(paired["difference"], abs=1e-6)
    assert "accuracy_difference/domain" not in lm_eval_metrics(parse(dense))
    pipeline, seen = pipeline_of(judged_root)
    place_figures(judged_root, "magnitude-50", *pipeline.figures("magnitude-50"))
    metrics = json.loads((judged_root / "artifacts" / "metrics" / "magnitude-50.json").read_text())
    assert metrics["accuracy"] == {"domain": rows[1]["accuracy"]} and computed(seen) == []
    monkeypatch.chdir(judged_root)
    assert lineage_of("magnitude-50", None)["chain"][-1]["what"] == "tasks"
    assert {"domain items", "magnitude-50 tasks"} <= {step["label"] for step in explain_variant("magnitude-50", None)}


def test_answers_to_different_tasks_are_not_put_into_one_table(judged_root: Path):
    dense, variant = records(judged_root)
    other = variant | {"judged": variant["judged"] | {"protocol": {"digest": "other"}}}
    with pytest.raises(InputError, match="dense and magnitude-50 answered different tasks"):
        comparison_table(map(parse, [dense, other]))


def test_without_tasks_nothing_is_asked(workspace_root: Path):
    dense, _ = records(workspace_root)
    assert dense["judged"] is None
    page = write_report(map(parse, [dense]), Path("report.html"), workspace_root).read_text()
    assert "McNemar" not in page and comparison_table(map(parse, [dense]))[0]["accuracy"] is None
