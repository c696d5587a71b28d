"""What a killed process left RUNNING is told to be over; what lives, and what another machine does, is left alone."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from flows import launch
from tasks.machine.process_identity import Owner
from tasks.orchestration import flow_runs
from tasks.tracking import connection, runs

# Says of which run it is, as `record_owner` does, and stops in the middle of it.
KILLED = """
import os, signal, sys
from prefect import flow, task
from tasks.orchestration.flow_runs import record_owner

@task
def work():
    os.kill(os.getpid(), signal.SIGKILL)

@flow
def run(root):
    with record_owner(root):
        work()

run(sys.argv[1])
"""


@pytest.fixture
def ended() -> Owner:
    """A process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return dataclasses.replace(Owner.here(), pid=process.pid)


def owners(ended: Owner) -> dict[str, Owner]:
    return {"left": ended, "living": Owner.here(), "elsewhere": dataclasses.replace(ended, host="elsewhere")}


def test_mlflow_runs_of_a_process_that_is_gone_end_as_killed(tmp_path: Path, ended: Owner):
    experiment = connection.prepare(tmp_path)
    with connection.connect(tmp_path) as client:
        for name, owner in owners(ended).items():
            client.create_run(experiment, run_name=name, tags={runs.OWNER: json.dumps(owner.facts())})
    assert launch.reconcile(tmp_path) == ["MLflow run left was left by a process that is gone: KILLED"]
    states = {run["name"]: run["status"] for run in runs.find_runs(tmp_path, status=None)}
    assert states == {"left": "KILLED", "living": "RUNNING", "elsewhere": "RUNNING"}
    assert launch.reconcile(tmp_path) == []


def test_where_nothing_was_left_nothing_is_asked(tmp_path: Path):
    assert launch.reconcile(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_flow_run_whose_process_was_killed_is_crashed_with_its_task(prefect_server, tmp_path: Path, ended: Owner):
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.settings import PREFECT_API_URL, get_current_settings

    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    environment = settings | {"PYTHONPATH": ":".join(sys.path), "PREFECT_API_URL": PREFECT_API_URL.value()}
    killed = subprocess.run([sys.executable, script, tmp_path], env=environment, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr.decode()

    [file] = (tmp_path / flow_runs.RUNS).glob("*.json")
    others = {name: file.with_name(f"{uuid4()}.json") for name in ("living", "elsewhere")}
    for name, other in others.items():
        other.write_text(json.dumps(owners(ended)[name].facts()))
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(file.stem).state_type.value == "RUNNING"
        [name] = flow_runs.reconcile(tmp_path)
        run = client.read_flow_run(file.stem)
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [file.stem]}))
    assert run.name == name and run.state_type.value == "CRASHED" and "was killed" in run.state.message
    assert all(task.state_type.value == "CRASHED" for task in tasks)
    assert sorted((tmp_path / flow_runs.RUNS).iterdir()) == sorted(others.values())
    assert flow_runs.reconcile(tmp_path) == []


@pytest.mark.slow
def test_a_run_that_ends_leaves_no_record(prefect_server, tmp_path: Path):
    from prefect import flow

    @flow
    def run() -> list[str]:
        with flow_runs.record_owner(tmp_path):
            return [file.stem for file in (tmp_path / flow_runs.RUNS).iterdir()]

    [recorded] = run()
    assert len(recorded) == 36 and list((tmp_path / flow_runs.RUNS).iterdir()) == []


@pytest.mark.slow
def test_a_run_whose_end_the_server_cannot_be_told_stays_on_record(prefect_server, tmp_path: Path, monkeypatch):
    from prefect import flow

    def refuse(*given, **options):
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(flow_runs.httpx, "get", refuse)

    @flow
    def run() -> None:
        with flow_runs.record_owner(tmp_path):
            pass

    run()
    [file] = (tmp_path / flow_runs.RUNS).iterdir()
    assert flow_runs.abandoned_runs(tmp_path) == {}, "its process lives"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"created": "another boot:1"}))
    # It had been told after all: there is nothing to say, and nothing left.
    assert flow_runs.reconcile(tmp_path) == [] and not file.exists()
