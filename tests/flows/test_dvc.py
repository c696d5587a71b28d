"""DVC and the flow on one store: real `dvc` in a git repository of its own, running the repository's dvc.yaml."""

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import yaml
from pipelines import pipeline_of

from pruning_core.errors import InputError
from tasks import versioning
from tasks.engine.step_log import CACHED

pytestmark = pytest.mark.slow

VARIANTS = ("sparsegpt-50", "magnitude-50")
UP_TO_DATE = "Data and pipelines are up to date."


@pytest.fixture(scope="module")
def empty_repository(make_repository) -> Path:
    """The tiny workspace under git and DVC."""
    return make_repository()


@pytest.fixture(scope="module")
def reproduced(dvc, empty_repository: Path, tmp_path_factory) -> tuple[Path, str]:
    """After `dvc repro` of one variant from scratch, and what it printed."""
    root = shutil.copytree(empty_repository, tmp_path_factory.mktemp("reproduced") / "workspace")
    return root, dvc(root, "repro", "evaluate@sparsegpt-50")


@pytest.fixture(scope="module")
def compared(espalier, empty_repository: Path) -> Path:
    """After `espalier compare`, which gives its results to DVC."""
    done = espalier(empty_repository, "compare", "--json")
    assert done.code == 0, done.err
    return empty_repository


def git(root: Path, *arguments: str) -> None:
    """Git under a name of its own."""
    own = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *own, *arguments], cwd=root, check=True)


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def digests(root: Path, variant: str) -> dict[str, str]:
    """Of the manifests that lie in artifacts/."""
    folders = (
        "tokens/calibration",
        "tokens/evaluation",
        f"models/{variant}",
        "evaluations/dense",
        f"evaluations/{variant}",
    )
    return {
        folder: json.loads((root / "artifacts" / folder / "manifest.json").read_text())["digest"] for folder in folders
    }


def steps_computed(root: Path, variants: tuple[str, ...]) -> list[str]:
    """The steps that a run without DVC has to compute."""
    pipeline, log = pipeline_of(root)
    for variant in variants:
        pipeline.quality(variant)
    assert len(log.records) > 3
    return [record["label"] for record in log.records if record["state"] != CACHED]


def test_repro_from_scratch_runs_the_stages_in_order_and_leaves_nothing_for_a_flow(reproduced):
    root, output = reproduced
    assert set(stages_run(output)) == {"tokens", "evaluate-dense", "prune@sparsegpt-50", "evaluate@sparsegpt-50"}
    assert stages_run(output)[0] == "tokens" and stages_run(output)[-1] == "evaluate@sparsegpt-50"
    assert steps_computed(root, ("sparsegpt-50",)) == []


def test_repro_and_flow_give_the_same_digests(reproduced, compared: Path):
    assert digests(reproduced[0], "sparsegpt-50") == digests(compared, "sparsegpt-50")


def test_after_the_flow_repro_has_nothing_to_run(dvc, compared: Path):
    output = dvc(compared, "repro")
    assert stages_run(output) == [] and UP_TO_DATE in output


def test_the_flow_recorded_every_output_under_the_md5_that_the_record_names(espalier, compared: Path):
    lock = yaml.safe_load((compared / "dvc.lock").read_text())["stages"]
    assert set(lock) == {
        "tokens",
        "evaluate-dense",
        *(f"{stage}@{name}" for stage in ("prune", "evaluate") for name in VARIANTS),
    }
    record = json.loads(espalier(compared, "compress", "sparsegpt-50", "--json").out)
    [output] = lock["prune@sparsegpt-50"]["outs"]
    assert record["dvc"] == {"path": "artifacts/models/sparsegpt-50", "md5": output["md5"]}


def test_metrics_and_graph_show_every_variant(dvc, compared: Path):
    [found] = json.loads(dvc(compared, "metrics", "show", "--json")).values()
    metrics = {Path(file).stem: content["data"] for file, content in found["data"].items()}
    assert set(metrics) == {"dense", *VARIANTS}
    for name, shown in metrics.items():
        evaluated = json.loads((compared / "artifacts" / "evaluations" / name / "metrics.json").read_text())
        assert shown["perplexity"] == evaluated["perplexity"]
    graph = dvc(compared, "dag", "--mermaid")
    assert all(f"{stage}@{name}" in graph for stage in ("prune", "evaluate") for name in VARIANTS)


def test_editing_one_variant_runs_the_stages_of_that_variant_alone(dvc, compared: Path):
    params = yaml.safe_load((compared / "params.yaml").read_text())
    params["variants"]["magnitude-50"]["sparsity"] = 0.25
    (compared / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    assert stages_run(dvc(compared, "repro")) == ["prune@magnitude-50", "evaluate@magnitude-50"]
    manifest = json.loads((compared / "artifacts/models/magnitude-50/manifest.json").read_text())
    assert manifest["facts"]["sparsity"]["prunable"] == 0.25
    assert steps_computed(compared, VARIANTS) == []


@pytest.mark.long
def test_an_experiment_in_a_copy_of_the_workspace_uses_its_store_and_is_shown(dvc, compared: Path):
    (compared / ".gitignore").write_text(".espalier/\n__pycache__/\n")
    git(compared, "add", "--all")
    git(compared, "commit", "--quiet", "--message", "results")
    objects = compared / ".espalier" / "objects"
    before = set(objects.iterdir())
    # Queued experiments run in such a copy, too.
    ran = dvc(compared, "exp", "run", "--temp", "-S", "variants.magnitude-50.sparsity=0.4", "evaluate@magnitude-50")
    assert stages_run(ran) == ["prune@magnitude-50", "evaluate@magnitude-50"]
    manifests = [json.loads((path / "manifest.json").read_text()) for path in set(objects.iterdir()) - before]
    [model] = [manifest for manifest in manifests if manifest["kind"] == "variant"]
    assert model["facts"]["sparsity"]["prunable"] == pytest.approx(0.4, abs=1e-3)
    [baseline] = [entry for entry in json.loads(dvc(compared, "exp", "show", "--json")) if entry["experiments"]]
    [[experiment]] = [found["revs"] for found in baseline["experiments"]]
    shown = experiment["data"]
    assert shown["params"]["params.yaml"]["data"]["variants"]["magnitude-50"]["sparsity"] == 0.4
    assert shown["metrics"]["artifacts/metrics/magnitude-50.json"]["data"]["kl_to_dense"] > 0


def test_what_dvc_refuses_is_told_in_a_sentence_and_the_results_are_kept(espalier, compared: Path):
    stages = yaml.safe_load((compared / "dvc.yaml").read_text())
    stages["stages"]["tokens"]["params"].append("a_key_that_is_not_there")
    (compared / "dvc.yaml").write_text(yaml.safe_dump(stages))
    done = espalier(compared, "compress", "sparsegpt-50")
    [sentence] = [line for line in done.err.splitlines() if line.startswith("espalier: ")]
    assert done.code == 2 and "Traceback" not in done.err
    assert "DVC cannot record" in sentence and "a_key_that_is_not_there" in sentence


def test_recording_waits_for_another_dvc_and_gives_up_in_a_sentence(reproduced, tmp_path: Path, monkeypatch):
    root = shutil.copytree(reproduced[0], tmp_path / "workspace")
    monkeypatch.chdir(root)
    (root / "dvc.lock").unlink()
    busy = root / ".dvc" / "tmp" / "rwlock"
    # As DVC notes it while a stage is under way; the process is this one, which lives.
    output = str(root / "artifacts" / "tokens")
    busy.write_text(json.dumps({"write": {output: {"pid": os.getpid(), "cmd": "dvc repro"}}, "read": {}}))
    threading.Timer(2.0, busy.write_text, ['{"write": {}, "read": {}}']).start()
    versioning.commit(root, ["tokens"])
    assert "tokens" in yaml.safe_load((root / "dvc.lock").read_text())["stages"]

    (root / "dvc.lock").unlink()
    busy.write_text(json.dumps({"write": {output: {"pid": os.getpid(), "cmd": "dvc repro"}}, "read": {}}))
    monkeypatch.setattr(versioning, "WAIT_SECONDS", 0.5)
    with pytest.raises(InputError, match=r"DVC cannot record the results .*is busy.* they are stored"):
        versioning.commit(root, ["tokens"])
