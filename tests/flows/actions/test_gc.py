"""Garbage collection on a real store, with real MLflow models and a real dvc.lock: what goes, what stays, and why."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import BIN
from tracked import age, make

from flows.actions.gc import collect, require_consent
from pruning_core.errors import InputError
from tasks import versioning
from tasks.store.artifact import Artifact
from tasks.store.locks import is_locked
from tasks.store.store import Store
from tasks.tracking.connection import connect

DENSE = "variants.sparsegpt-50.propagate=dense"


def sparsity(value: float) -> list[str]:
    return [f"variants.magnitude-50.sparsity={value}"]


@pytest.fixture(scope="module")
def filled(make_workspace) -> dict[str, Any]:
    """A workspace with the variants of params.yaml, and others that somebody names, or nobody."""
    root = make_workspace()
    made = {"params": make(root, "sparsegpt-50", "magnitude-50", tracked=False)["sparsegpt-50"]}
    for name, value in (("tracked", 0.1), ("registered", 0.2), ("locked", 0.3), ("placed", 0.4), ("orphan", 0.6)):
        tracked = name in ("tracked", "registered")
        made[name] = make(root, "magnitude-50", overrides=sparsity(value), tracked=tracked)["magnitude-50"]
    made["statistics"] = make(root, "sparsegpt-50", overrides=[DENSE], tracked=False)["sparsegpt-50"]
    with connect(root) as client:
        client.create_registered_model("small")
        client.create_model_version("small", Path(made["registered"]["model"]["path"]).as_uri())
        client.set_registered_model_alias("small", "champion", "1")
        client.delete_run(made["registered"]["run_id"])
    store = Store(root / ".espalier")
    for name in ("locked", "placed"):
        store.materialize(Artifact.from_reference(made[name]["model"]), root / "artifacts" / "models" / name)
    stage = {"cmd": "true", "outs": ["artifacts/models/locked"]}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"only": stage}}))
    subprocess.run([BIN / "dvc", "init", "--no-scm", "--quiet"], cwd=root, check=True)
    with contextlib.chdir(root):
        versioning.commit(root, ["only"])
    # dvc.lock and DVC's cache are all that names it now.
    shutil.rmtree(root / "artifacts" / "models" / "locked")
    age(root)
    return {"root": root, "made": made}


@pytest.fixture
def workspace(filled: dict, tmp_path: Path, monkeypatch) -> dict[str, Any]:
    """A copy of it as the current folder; copies keep their times."""
    root = shutil.copytree(filled["root"], tmp_path / "copy")
    monkeypatch.chdir(root)
    return {"root": root, "made": filled["made"], "store": Store(root / ".espalier")}


@pytest.fixture
def gone(workspace: dict) -> Callable[..., tuple[set[str], dict[str, Any]]]:
    """gone(**options) -> keys that are no more, and what the command says."""

    def run(**options: Any) -> tuple[set[str], dict[str, Any]]:
        chosen = {"keep_statistics": True, "older_than": 0.0, "dry_run": False, "yes": True, "quiet": True} | options
        before = {path.name for path in workspace["store"].objects.iterdir()}
        found = collect(**chosen)
        return before - {path.name for path in workspace["store"].objects.iterdir()}, found

    return run


def blocks(store: Store, record: dict[str, Any]) -> set[str]:
    manifest = json.loads((store.objects / record["model"]["key"] / "manifest.json").read_text())
    return {entry["key"] for name, entry in manifest["inputs"].items() if name.startswith("block-")}


def test_what_nobody_names_goes_with_what_it_was_made_from(workspace: dict, gone):
    store, orphans = workspace["store"], [workspace["made"][name] for name in ("orphan", "statistics")]
    wanted = {key for record in orphans for key in (record["model"]["key"], record["evaluation"]["key"])}
    wanted |= {key for record in orphans for key in blocks(store, record)}
    keys, found = gone()
    assert wanted < keys
    kinds = {item["kind"] for item in found["removed"] if item["name"] in keys - wanted}
    assert kinds == {"statistics", "measure"} and found["bytes"] == sum(item["size"] for item in found["goes"])
    assert not any((store.root / "signatures" / f"{key}.json").exists() for key in keys)
    assert not any(store.builds.root.iterdir())


def test_what_somebody_names_stays_whole_and_it_is_told_who(workspace: dict, gone):
    store, made = workspace["store"], workspace["made"]
    stays = {name: {made[name]["model"]["key"], *blocks(store, made[name])} for name in made}
    keys, found = gone()
    for name in ("params", "tracked", "registered", "locked", "placed"):
        assert not stays[name] & keys, name
        assert all(store.find(key) for key in stays[name])
    reasons = " ".join(found["kept"])
    assert "params.yaml: sparsegpt-50" in reasons and "dvc.lock: artifacts/models/locked" in reasons
    assert "registered model small version 1, champion" in reasons and "artifacts/models/placed" in reasons
    assert f"MLflow run {made['tracked']['run_id'][:8]}" in reasons


def test_without_consent_nothing_goes(workspace: dict, gone):
    keys, found = gone(yes=False)
    assert keys == set() and found["removed"] is None and found["goes"]
    with pytest.raises(InputError, match=r"nothing was removed; add --yes"):
        require_consent(found, dry_run=False)
    keys, dry = gone(dry_run=True)
    assert keys == set() and dry["goes"] == found["goes"]
    require_consent(dry, dry_run=True)


def test_what_a_running_process_found_stays(workspace: dict, gone):
    key = workspace["made"]["orphan"]["model"]["key"]
    before = {path.name for path in workspace["store"].objects.iterdir()}
    assert workspace["store"].find(key)
    with pytest.raises(InputError, match=rf"the store is in use by process {os.getpid()} \(.*nothing is removed"):
        gone()
    assert {path.name for path in workspace["store"].objects.iterdir()} == before
    keys, dry = gone(dry_run=True)
    assert keys == set() and key in {item["name"] for item in dry["goes"]}


def test_beside_a_running_command_it_removes_nothing_and_says_why_and_afterwards_it_collects(
    workspace: dict, start, espalier
):
    root, orphan = workspace["root"], workspace["made"]["orphan"]["model"]["key"]
    # It finds what is there, and computes until it is stopped.
    command = start(root, "espalier", "compress", "magnitude-50", "--set", "variants.magnitude-50.sparsity=0.55")
    deadline = time.monotonic() + 120
    while not is_locked(root / ".espalier" / "use.lock"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(command.pid, signal.SIGSTOP)
    refused = espalier(root, "gc", "--yes")
    assert refused.code == 2 and f"the store is in use by process {command.pid} (" in refused.err, refused
    assert len(refused.err.strip().splitlines()) == 1 and "Traceback" not in refused.err
    looked = espalier(root, "gc", "--dry-run", "--json")
    assert looked.code == 0 and orphan in {item["name"] for item in json.loads(looked.out)["goes"]}
    assert (workspace["store"].objects / orphan).is_dir()
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    collected = espalier(root, "gc", "--yes", "--json")
    assert collected.code == 0 and orphan in {item["name"] for item in json.loads(collected.out)["removed"]}
    assert not (workspace["store"].objects / orphan).exists()


def test_days_and_statistics_are_options(workspace: dict, gone):
    keys, found = gone(older_than=2.0)
    assert keys == set() and "used in the last 2 days" in found["kept"]
    settings = yaml.safe_load(Path("params.yaml").read_text())
    settings["variants"]["sparsegpt-50"]["propagate"] = "dense"
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    _, found = gone(dry_run=True)
    assert "statistics" not in {item["kind"] for item in found["goes"]}
    keys, found = gone(keep_statistics=False)
    gone_kinds = [item["kind"] for item in found["removed"]]
    assert gone_kinds.count("statistics") == 2 and workspace["made"]["statistics"]["model"]["key"] not in keys


def test_what_killed_processes_left_goes_but_for_what_a_variant_goes_on_from(workspace: dict, gone):
    root, store = workspace["root"], workspace["store"]
    [block, *_] = sorted(blocks(store, workspace["made"]["params"]))
    shutil.rmtree(store.objects / block)
    for name in (block, "0" * 64):
        (store.scratch(name) / "state").write_text("half")
    for place in ("tmp/half.0123", "altered/old"):
        (store.root / place).mkdir(parents=True)
    other = Store(store.root)
    _, found = gone(dry_run=True)
    assert {(item["place"], item["name"]) for item in found["goes"] if item["place"] != "objects"} == {
        ("scratch", "0" * 64),
        ("tmp", "half.0123"),
        ("altered", "old"),
    }
    gone()
    assert [path.name for path in (root / ".espalier/scratch").iterdir()] == [block] and other.scratch(block).is_dir()
    assert not any((store.root / place).exists() for place in ("tmp/half.0123", "altered/old"))


@pytest.mark.parametrize("broken", ["dvc.lock", "registered model"])
def test_nothing_goes_while_something_binding_cannot_be_understood(workspace: dict, gone, broken: str):
    if broken == "dvc.lock":
        shutil.rmtree(".dvc/cache")
    else:
        with connect(workspace["root"]) as client:
            client.create_model_version("small", f"file://{workspace['root']}/.espalier/objects/unknown")
    with pytest.raises(InputError, match=f"{broken}.*nothing is removed"):
        gone()
    assert workspace["store"].find(workspace["made"]["orphan"]["model"]["key"])
