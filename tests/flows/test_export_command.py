"""`espalier export`: a directory that holds, and evaluates to, what its card says; and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tracked import make

from pruning_core.checkpoint.layer_facts import layers_in
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.export.onnx import packages
from tasks.pipeline.variant import Pipeline
from tasks.records.variant import parse
from tasks.report.page import write_report
from tasks.tracking.runs import find_runs
from tasks.workspace.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

VARIANT = "magnitude-50"
EXPORT = ("export", VARIANT, "--format", "sparse", "--option", "encoding=bitmask")
PAIRS = (VARIANT, "--format", "sparse", "--option", "encoding=n_of_m")
QUANTIZED = ("--set", "variants.int4={quantizer: {name: affine, group_size: 10}}")


@pytest.fixture(scope="module")
def fresh(make_workspace) -> Path:
    """A workspace in which nothing was done."""
    return make_workspace()


@pytest.fixture(scope="module")
def root(make_workspace) -> Path:
    return make_workspace()


@pytest.fixture(scope="module")
def variant(root: Path) -> dict[str, Any]:
    """The variant as `espalier compress` leaves it."""
    return make(root, VARIANT)[VARIANT]


@pytest.fixture(scope="module")
def record(espalier, root: Path, variant: dict[str, Any]) -> dict[str, Any]:
    """What the command tells."""
    done = espalier(root, *EXPORT, "--json")
    assert done.code == 0, done
    return json.loads(done.out)


def test_the_directory_holds_the_export_its_card_and_its_record(root: Path, variant, record):
    out = Path(record["path"])
    assert out == root / "artifacts" / "exports" / VARIANT / "sparse-bitmask"
    assert {file.name for file in out.iterdir()} >= {"README.md", "export.json", "config.json", "tokenizer.json"}
    assert not [file.name for file in out.iterdir() if file.name.startswith(".") or file.name == "manifest.json"]
    assert json.loads((out / "export.json").read_text()) == {
        key: value for key, value in record.items() if key not in ("path", "run_id")
    }
    (run,) = [run for run in find_runs(root) if run["run_id"] == record["run_id"]]
    assert run["tags"]["mlflow.parentRunId"] == variant["run_id"]


def test_the_variant_tells_the_size_of_its_export_in_its_run_and_its_record(root: Path, record):
    files = [file for file in Path(record["path"]).iterdir() if file.name.startswith("sparse")]
    size = sum(file.stat().st_size for file in files)
    made = make(root, VARIANT)
    bits = 8 * size / record["facts"]["parameters"]
    assert made[VARIANT]["exports"] == [
        {"label": "sparse encoding=bitmask", "file_bytes": size, "bits_per_weight": bits}
    ]
    (run,) = [run for run in find_runs(root) if run["run_id"] == made[VARIANT]["run_id"]]
    assert run["metrics"]["export/sparse encoding bitmask/size_mb"] == pytest.approx(size / 1e6, rel=1e-5)
    page = write_report(map(parse, made.values()), root / "report.html", root).read_text()
    assert page.count("<td>sparse encoding=bitmask</td>") == 1


def test_every_weight_is_the_variants_and_every_zero_is_counted(root: Path, record):
    workspace = Workspace.open(root)
    model = Pipeline(workspace.context(), workspace.settings).model(VARIANT)
    stored = StoredModel(model.path, layers_in(model.facts))
    zeros = sum(int((stored.load(matrix.stored) == 0).sum()) for matrix in stored.matrices)
    assert record["facts"]["verified"] == {
        "tensors": len(stored.names()),
        "equal": len(stored.names()),
        "relative_change": 0.0,
        "largest_change": 0.0,
        "zeros": {"before": zeros, "after": zeros},
    }
    assert record["facts"]["written"]["encodings"]["bitmask"]["tensors"] == len(stored.matrices) == 14


def test_evaluating_the_directory_gives_the_perplexity_of_the_variant(espalier, root: Path, record):
    done = espalier(root, "evaluate", record["path"], "--json")
    assert done.code == 0, done
    found = json.loads(done.out)
    assert found["quality"]["perplexity"] == record["quality"]["export"]["perplexity"]
    assert found["quality"]["perplexity"] == record["quality"]["variant"]["perplexity"]
    assert found["size"]["file_bytes"] == record["facts"]["file_bytes"]


def test_the_same_command_again_computes_nothing_and_tells_the_same(espalier, root: Path, record):
    done = espalier(root, *EXPORT)
    assert done.code == 0 and record["path"] in done.out, done
    steps = [line for line in done.err.splitlines() if " s  " in line]
    assert steps and all(line.startswith("cached") for line in steps), done
    assert any(line.endswith(f"{VARIANT} as sparse encoding=bitmask") for line in steps)
    again = json.loads((Path(record["path"]) / "export.json").read_text())
    assert again == {key: value for key, value in record.items() if key not in ("path", "run_id")}
    assert [run["run_id"] for run in find_runs(root) if run["tags"].get("kind") == "export"] == [record["run_id"]]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--format", "spars"), "did you mean 'sparse'"),
        (("--format", "sparse", "--option", "encoding=gzip"), "encoding"),
        (("--format", "sparse", "--option", "bits=4"), "bits is not a known key"),
    ],
)
def test_a_format_or_option_that_is_unknown_ends_with_a_sentence(espalier, root: Path, arguments, told: str):
    done = espalier(root, "export", VARIANT, *arguments)
    assert done.code == 2 and told in done.err and "Traceback" not in done.err, done


def test_a_directory_with_other_files_is_left_as_it_is(espalier, root: Path, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    done = espalier(root, *EXPORT, "--to", str(tmp_path))
    assert done.code == 2 and "holds something that is no export" in done.err and "Traceback" not in done.err, done
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("thesis.tex", "years of work")]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((VARIANT, "--format", "gptq"), "add a quantizer to its recipe, or use --format safetensors"),
        ((VARIANT, "--format", "compressed_tensors"), "add a quantizer to its recipe, or use --format safetensors"),
        ((VARIANT, "--format", "gguf"), "of the kind WordLevel, not BPE; use --format safetensors"),
        ((VARIANT, "--format", "sparse", "--option", "encoding=codes"), "choose encoding auto, which takes any"),
        ((*PAIRS, "--option", "n=2", "--option", "m=4"), "cannot be written as n_of_m"),
        (("dense", "--format", "gptq"), "add a quantizer to its recipe, or use --format safetensors"),
        (("int4", *QUANTIZED, "--format", "gptq"), "packs 32 inputs and 32 outputs at a time"),
        (("int4", *QUANTIZED, "--format", "compressed_tensors"), "choose a group_size that divides them"),
    ],
)
def test_what_the_recipe_rules_out_is_refused_before_anything_is_made(espalier, fresh: Path, arguments, told: str):
    before = {file: file.stat().st_mtime_ns for file in fresh.rglob("*")}
    done = espalier(fresh, "export", *arguments)
    assert done.code == 2 and told in done.err and len(done.err.splitlines()) == 1, done
    assert {file: file.stat().st_mtime_ns for file in fresh.rglob("*")} == before


def test_an_encoding_that_cannot_hold_the_variant_ends_with_one_that_can(espalier, root: Path, record, tmp_path: Path):
    arguments = ("export", VARIANT, "--format", "sparse", "--option", "encoding=codes", "--to", str(tmp_path / "out"))
    done = espalier(root, *arguments)
    assert done.code == 2 and "choose encoding auto" in done.err and "Traceback" not in done.err, done
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not packages.is_installed(), reason="ONNX Runtime is not installed (the extra onnx)")
def test_an_onnx_export_is_judged_and_timed_by_onnx_runtime_and_read_by_ourselves(espalier, root: Path, record):
    done = espalier(root, "export", VARIANT, "--format", "onnx", "--json")
    assert done.code == 0, done
    found = json.loads(done.out)
    variant = found["quality"]["variant"]["perplexity"]
    assert found["quality"]["export"]["perplexity"] == variant
    assert found["quality"]["ONNX Runtime"]["perplexity"] == pytest.approx(variant, rel=1e-5)
    assert {row["engine"] for row in found["serving"]["rows"]} == {"transformers", "ONNX Runtime"}
    assert found["facts"]["verified"]["zeros"] == record["facts"]["verified"]["zeros"]
    card = (Path(found["path"]) / "README.md").read_text()
    assert "this export, run by ONNX Runtime" in card and "onnxruntime.InferenceSession" in card
    again = espalier(root, "evaluate", found["path"], "--json")
    assert again.code == 0 and json.loads(again.out)["quality"]["perplexity"] == variant, again


@pytest.mark.skipif(packages.is_installed(), reason="ONNX Runtime is installed")
def test_without_onnx_runtime_its_format_is_refused_before_anything_is_made(espalier, fresh: Path):
    before = {file: file.stat().st_mtime_ns for file in fresh.rglob("*")}
    done = espalier(fresh, "export", VARIANT, "--format", "onnx")
    assert done.code == 2 and "pip install 'espalier[onnx]'" in done.err and len(done.err.splitlines()) == 1, done
    assert {file: file.stat().st_mtime_ns for file in fresh.rglob("*")} == before
