"""The scheduled flow once, with `serve --now`: a champion where the gates pass, reasons where not, nothing twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import Finished
from markupsafe import escape
from transformers import AutoModelForCausalLM

from pruning_core.compress import factor
from tasks.store.store import Store
from tasks.tracking.connection import store_uri

pytestmark = pytest.mark.slow

MODEL = "tiny"
WIDE = {"perplexity": 1e6, "size": {"stored": 1.0, "bitmask": 0.95}, "ledger": 0, "kl": 100.0, "champion": True}


@pytest.fixture(scope="module")
def root(make_repository, dvc, tmp_path_factory) -> Path:
    """The tiny workspace with a schedule, and a folder as DVC's remote."""
    root = make_repository()
    dvc(root, "remote", "add", "--quiet", "--default", "backup", str(tmp_path_factory.mktemp("remote")))
    set_gates(root, WIDE)
    return root


@pytest.fixture(scope="module")
def now(espalier, root: Path) -> Callable[[], dict[str, Any]]:
    """now() -> what one run says."""

    def run() -> dict[str, Any]:
        done: Finished = espalier(root, "serve", "--now", "--json")
        assert done.code == 0, done.err
        return json.loads(done.out)

    return run


@pytest.fixture(scope="module")
def first(now) -> dict[str, Any]:
    return now()


def set_gates(root: Path, gates: dict[str, Any]) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["schedule"] = {"cron": "0 3 * * *", "gates": gates}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def registered(root: Path) -> tuple[str | None, dict[str, dict[str, str]]]:
    """The champion's version, and the tags of every version, as MLflow's own client reads them."""
    from mlflow import MlflowClient

    client = MlflowClient(store_uri(root), store_uri(root))
    champion = client.get_registered_model(MODEL).aliases.get("champion")
    versions = {str(v.version): dict(v.tags) for v in client.search_model_versions(f"name = '{MODEL}'")}
    return champion and str(champion), versions


def losses(root: Path, entry: dict[str, Any]) -> torch.Tensor:
    """Window by window, of a judged variant."""
    for artifact in Store(root / ".espalier").artifacts():
        inputs = artifact.manifest["inputs"]
        if artifact.kind == "evaluate" and inputs["model"]["digest"] == entry["digest"]:
            return torch.tensor(json.loads((artifact.path / "windows.json").read_text())["losses"])
    raise AssertionError(f"no evaluation of {entry['name']}")


def best_of(root: Path, decision: dict[str, Any]) -> dict[str, Any]:
    return min(decision["variants"], key=lambda entry: float(losses(root, entry).mean()))


def test_the_best_variant_that_passes_becomes_champion(root, first):
    decision = first["decision"]
    assert first["new"] and decision["moved"] and decision["number"] == 1
    assert all(entry["passed"] and not entry["error"] for entry in decision["variants"])
    best = best_of(root, decision)
    champion, versions = registered(root)
    assert champion == best["version"] == decision["champion"]["after"]["version"]
    assert versions[champion]["variant"] == best["name"] and versions[champion]["decision"] == "passed"
    assert versions[champion]["gate.ledger"].startswith("passed: 0 ledger events")
    assert {tags["variant"] for tags in versions.values()} == {"sparsegpt-50", "magnitude-50"}


def test_the_alias_leads_to_the_weights(root, first):
    from mlflow import MlflowClient

    client = MlflowClient(store_uri(root), store_uri(root))
    version = client.get_model_version_by_alias(MODEL, "champion")
    assert Path(version.source.removeprefix("file://")) == Path(best_of(root, first["decision"])["path"])
    assert client.get_run(version.run_id).data.tags["variant_key"] == version.tags["variant_key"]


def test_the_results_are_in_dvc_and_in_its_remote(root, dvc, first):
    assert first["decision"]["dvc"]["versioned"] and first["decision"]["dvc"]["remote"] == "backup"
    assert first["decision"]["dvc"]["files"] > 0
    assert "Data and pipelines are up to date" in dvc(root, "status")
    missing = json.loads(dvc(root, "data", "status", "--not-in-remote", "--json")).get("not_in_remote", [])
    assert missing == []


def test_the_decision_is_written_for_people_and_for_machines(root, first):
    folder = root / ".espalier" / "decisions"
    assert json.loads((folder / "1.json").read_text()) == first["decision"]
    page = (folder / "1.html").read_text()
    assert "perplexity" in page and "http" not in page
    assert all(
        str(escape(gate["reason"])) in page for entry in first["decision"]["variants"] for gate in entry["gates"]
    )


def test_prefect_shows_the_decision(root, first):
    from prefect import get_client

    with get_client(sync_client=True) as client:
        [run] = [run for run in client.read_flow_runs() if (run.parameters or {}).get("root") == str(root)][-1:]
        shown = [artifact for artifact in client.read_artifacts() if artifact.flow_run_id == run.id]
    assert run.state_type.value == "COMPLETED" and "is the champion" in run.state.message
    assert any(f"| {entry['name']} |" in shown[0].data for entry in first["decision"]["variants"])


def test_nothing_new_computes_nothing_and_registers_nothing(root, espalier, first):
    objects, before = set((root / ".espalier" / "objects").iterdir()), registered(root)
    again = espalier(root, "serve", "--now")
    assert again.code == 0 and again.out.startswith("Nothing new: "), again
    assert "computed" not in again.err and "cached" not in again.err
    assert set((root / ".espalier" / "objects").iterdir()) == objects
    assert registered(root) == before
    assert [file.name for file in (root / ".espalier" / "decisions").glob("*.json")] == ["1.json"]


@pytest.fixture(scope="module")
def refused(root, now, first) -> dict[str, Any]:
    """The same variants by gates that none of them passes."""
    set_gates(root, {"perplexity": 1.000001, "kl": 1e-9})
    return now()


def test_gates_that_fail_leave_the_alias_and_say_why(root, first, refused):
    decision = refused["decision"]
    assert refused["new"] and not decision["moved"] and decision["number"] == 2
    champion, versions = registered(root)
    assert champion == first["decision"]["champion"]["after"]["version"]
    assert len(versions) == 2
    for entry in decision["variants"]:
        failed = {gate["gate"] for gate in entry["gates"] if not gate["passed"]}
        own = losses(root, entry).mean()
        assert not entry["passed"] and "kl" in failed
        assert entry["perplexity"] == pytest.approx(float(own.exp()), rel=1e-5)
        assert versions[entry["version"]]["decision"] == "failed"
        assert versions[entry["version"]]["gate.kl"].startswith("failed: ")


@pytest.fixture(scope="module")
def renewed(root, now, refused) -> dict[str, Any]:
    """After a new checkpoint was put in the place of the old one."""
    set_gates(root, WIDE)
    folder = root / "models" / "tiny"
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    model.save_pretrained(folder)
    return now()


def test_a_new_checkpoint_is_noticed_and_judged_beside_the_champion(root, first, renewed):
    decision, old = renewed["decision"], first["decision"]
    assert renewed["new"] and decision["source"]["digest"] != old["source"]["digest"]
    assert decision["champion"]["before"] == old["champion"]["after"]
    champion = best_of(root, old)
    for entry in decision["variants"]:
        [gate] = [gate for gate in entry["gates"] if gate["gate"] == "champion"]
        expected = float((losses(root, entry) - losses(root, champion)).mean())
        assert gate["value"] == pytest.approx(expected, abs=1e-6)
        assert gate["passed"] is (expected <= 0) is entry["passed"]
    assert decision["moved"] is any(entry["passed"] for entry in decision["variants"])
    assert registered(root)[0] == decision["champion"]["after"]["version"] and len(registered(root)[1]) == 4


def test_a_remote_that_cannot_be_written_to_stops_before_anything_is_decided(root, dvc, espalier, renewed):
    blocked = root / "blocked"
    blocked.write_text("a file where a folder should be")
    dvc(root, "remote", "modify", "--quiet", "backup", "url", str(blocked / "remote"))
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["variants"]["magnitude-50"]["sparsity"] = 0.25
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    before = registered(root)
    done = espalier(root, "serve", "--now")
    assert done.code == 2 and "DVC cannot push to the remote 'backup'" in done.err and "Traceback" not in done.err
    assert registered(root) == before

    params["schedule"]["push"] = False
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    again = espalier(root, "serve", "--now")
    assert again.code == 0 and "computed" not in again.err


def test_a_variant_that_cannot_be_computed_is_told_and_stops_no_other(prefect_server, make_workspace, monkeypatch):
    from flows.scheduled import scheduled

    # No factor for any Hessian; magnitudes need none.
    monkeypatch.setattr(factor, "_inverse_upper", lambda prepared, added, dtype: None)
    root = make_workspace()
    set_gates(root, {})
    found = scheduled(root=str(root))
    entries = {entry["name"]: entry for entry in found["decision"]["variants"]}
    assert "is not positive definite" in entries["sparsegpt-50"]["error"] and not entries["sparsegpt-50"]["passed"]
    assert found["decision"]["champion"]["after"]["variant"] == "magnitude-50" and entries["magnitude-50"]["passed"]
    # It is tried again each time, and the same outcome is no news.
    assert scheduled(root=str(root)) == {"new": False, "decision": found["decision"]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no section schedule"),
        (("--set", "schedule={gates: {}}"), "schedule.cron is missing"),
        (("--json",), "--json prints one decision"),
        (("--now", "--every", "5"), "give one of them"),
        (("--set", "schedule={cron: 0 3 * * 9}"), "day of the week"),
    ],
)
def test_what_cannot_be_served_is_told_in_a_sentence(espalier, make_workspace, arguments, said):
    done = espalier(make_workspace(), "serve", *arguments)
    [sentence] = done.err.splitlines()
    assert done.code == 2 and said in sentence
