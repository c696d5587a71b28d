"""What exports take, in the record, the report and the run of their variant: real ones, as files in the store."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from export_records import make_export_record
from pipelines import pipeline_of
from records import make_records
from structured_steps import COLUMN

from pruning_core.source import load_model
from tasks.lineage.collect_record import exports_of, variant_record
from tasks.pipeline.variant import Pipeline
from tasks.records.exports import export_label
from tasks.records.variant import parse
from tasks.report.export_card import card
from tasks.report.page import write_report
from tasks.steps.export import export
from tasks.store.artifact import Artifact
from tasks.tracking.export_run import track_export
from tasks.tracking.runs import find_runs, track_variant
from tasks.workspace.workspace import Workspace

VARIANT = "magnitude-50"


@pytest.fixture
def root(workspace_root: Path) -> Path:
    """A workspace with a structured variant too."""
    params = yaml.safe_load((workspace_root / "params.yaml").read_text())
    params["variants"]["narrow"] = {"structured": COLUMN}
    (workspace_root / "params.yaml").write_text(yaml.safe_dump(params))
    return workspace_root


@pytest.fixture
def pipeline(root: Path) -> Pipeline:
    return pipeline_of(root)[0]


def exported(pipeline: Pipeline, name: str, format: str, **options: Any) -> Artifact:
    """An export, made and tracked; its quality and speed are invented."""
    root, model = pipeline.context.workspace, pipeline.model(name)
    made = pipeline.context.run(export, {"format": {"name": format, **options}}, {"model": model})
    record = make_export_record(root) | {"variant": name, "export": made.reference(), "facts": made.facts}
    record |= {"model": model.reference(), "model_facts": model.facts}
    (root / "README.md").write_text(card(record))
    track_export(root, record, root / "README.md")
    return made


def record_of(pipeline: Pipeline, name: str) -> dict[str, Any]:
    return variant_record(Workspace.open(pipeline.context.workspace), pipeline, name, []).as_json()


def weights_of(pipeline: Pipeline, name: str) -> int:
    return sum(parameter.numel() for parameter in load_model(pipeline.model(name).path).parameters())


def weights_bytes(made: Artifact) -> int:
    kinds = ("model", "sparse")
    return sum(file.stat().st_size for file in made.path.iterdir() if file.name.startswith(kinds))


def test_the_record_of_a_variant_tells_the_bytes_of_the_files_of_each_of_its_exports(root, pipeline):
    assert record_of(pipeline, VARIANT)["exports"] == []
    plain, sparse = exported(pipeline, VARIANT, "safetensors"), exported(pipeline, VARIANT, "sparse")
    exported(pipeline, "sparsegpt-50", "sparse", encoding="bitmask")
    weights = weights_of(pipeline, VARIANT)
    assert record_of(pipeline, VARIANT)["exports"] == [
        {"label": label, "file_bytes": size, "bits_per_weight": 8 * size / weights}
        for label, size in (("safetensors", weights_bytes(plain)), ("sparse", weights_bytes(sparse)))
    ]
    assert [one["label"] for one in record_of(pipeline, "sparsegpt-50")["exports"]] == ["sparse encoding=bitmask"]
    assert record_of(pipeline, "dense")["exports"] == []


def test_a_label_is_the_same_in_whatever_order_options_were_given():
    assert export_label({"name": "sparse", "n": 2, "m": 4}) == export_label({"m": 4, "n": 2, "name": "sparse"})
    assert export_label({"m": 4, "n": 2, "name": "sparse"}) == "sparse m=4 n=2"


def test_bits_are_per_weight_of_the_dense_model_also_where_channels_are_gone(root, pipeline):
    made = exported(pipeline, "narrow", "safetensors")
    dense, narrow = (weights_of(pipeline, name) for name in ("dense", "narrow"))
    [told] = record_of(pipeline, "narrow")["exports"]
    assert told["bits_per_weight"] == 8 * weights_bytes(made) / dense < 8 * weights_bytes(made) / narrow


def test_an_export_that_is_stored_no_more_is_not_told(root, pipeline):
    made = exported(pipeline, VARIANT, "sparse")
    model = pipeline.model(VARIANT)
    store = pipeline.context.store
    assert len(exports_of(root, store, model)) == 1
    shutil.rmtree(made.path)
    assert exports_of(root, store, model) == []


def test_the_run_of_the_variant_tells_them_at_once_and_when_it_is_tracked_again(root, pipeline):
    first = exported(pipeline, VARIANT, "safetensors")
    record = record_of(pipeline, VARIANT)
    run_id = track_variant(root, parse(record), []).run_id
    second = exported(pipeline, VARIANT, "sparse", encoding="bitmask")

    def sizes() -> dict[str, float]:
        (run,) = [run for run in find_runs(root) if run["run_id"] == run_id]
        return {name: value for name, value in run["metrics"].items() if name.endswith("size_mb") and "/" in name}

    wanted = {"safetensors": weights_bytes(first) / 1e6, "sparse encoding bitmask": weights_bytes(second) / 1e6}
    wanted = {f"export/{label}/size_mb": pytest.approx(size, rel=1e-5) for label, size in wanted.items()}
    assert sizes() == wanted
    record["exports"] = [{"label": "sparse encoding=bitmask", "file_bytes": 7_000_000, "bits_per_weight": 2.0}]
    assert track_variant(root, parse(record), []).reused
    assert sizes() == wanted | {"export/sparse encoding bitmask/size_mb": 7.0}


def test_the_report_has_them_in_a_table_beside_the_variant_as_it_is_stored(tmp_path):
    records = make_records(tmp_path)
    without = write_report(map(parse, records), tmp_path / "without.html", tmp_path).read_text()
    records[2]["exports"] = [
        {"label": "gguf type=q8_0", "file_bytes": 3_444_800, "bits_per_weight": 9.73},
        {"label": "sparse", "file_bytes": 5_600_000, "bits_per_weight": 15.8},
    ]
    page = write_report(map(parse, records), tmp_path / "with.html", tmp_path).read_text()
    assert 'id="exports"' not in without and 'href="#exports"' not in without
    section = page.partition('<section id="exports">')[2].partition("</section>")[0]
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)</t", row) for row in re.findall(r"<tr>(.*)</tr>", section)]
    assert rows[1:] == [
        ["wanda-50", "as stored here", "11.21", "32.00"],
        ["wanda-50", "gguf type=q8_0", "3.44", "9.73"],
        ["wanda-50", "sparse", "5.60", "15.80"],
    ]
