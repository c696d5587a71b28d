"""`espalier serve` and a worker with prefect.yaml: runs start by themselves, survive kills, and leave no process."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from commands import BIN, Command

from flows.servers import ui_servers
from tasks.machine.process_identity import VARIABLE
from tasks.orchestration import prefect_settings
from tasks.store.locks import is_locked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 400
# Blocks that take some tenths of a second each, so that a kill meets one of them.
LARGER = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6}


@pytest.fixture(scope="module")
def root(make_workspace) -> Path:
    """A workspace with a schedule of one variant."""
    root = make_workspace(**LARGER)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["schedule"] = {"cron": "0 3 * * *", "variants": ["sparsegpt-50"], "gates": {"ledger": 0}}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return root


@pytest.fixture(scope="module")
def environment(environment) -> dict[str, str]:
    """What commands are started with; they ask every second, not every ten, whether a run is due."""
    return environment | {"PREFECT_RUNNER_POLL_FREQUENCY": "1"}


def wait_until(condition: Callable[[], Any], what: str, command: Command) -> None:
    """Wait until something is true that the command brings about."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        log = command.out.read_text() + command.err.read_text()
        assert psutil.Process(command.pid).status() != psutil.STATUS_ZOMBIE, f"ended before {what}:\n{log}"
        assert time.monotonic() < deadline, f"{what} did not happen:\n{log}"
        time.sleep(0.2)


def flow_runs(root: Path) -> list[Any]:
    """The runs of this workspace that began, the oldest first."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        runs = [run for run in client.read_flow_runs() if (run.parameters or {}).get("root") == str(root)]
    return sorted((run for run in runs if run.start_time), key=lambda run: run.start_time)


def left_of(pid: int) -> list[psutil.Process]:
    """What a process started and is still there."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(VARIABLE, "").split(" ")[0] == str(pid) and process.pid != pid:
                found.append(process)
    return found


@pytest.fixture
def serve(start, root: Path) -> Iterator[Callable[..., Command]]:
    """serve(*arguments): `espalier serve` under way; killed with all that it started at the end, whatever happens."""
    started: list[Command] = []

    def run(*arguments: str, **variables: str) -> Command:
        started.append(start(root, "espalier", "serve", *arguments, **variables))
        return started[-1]

    yield run
    for command in started:
        for process in left_of(command.pid):
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(command.pid, signal.SIGKILL)


def test_a_run_starts_by_itself_is_killed_goes_on_where_it_was_and_stops_with_everything(serve, root: Path):
    """With SQLAlchemy 2.1 Prefect would schedule nothing and say nothing."""
    killed = serve("--every", "5")
    wait_until(lambda: "sparsegpt-50 block 1" in killed.err.read_text(), "the second block", killed)
    # As a power failure would: nobody is left to tell.
    for process in [psutil.Process(killed.pid), *left_of(killed.pid)]:
        process.kill()
    assert killed.wait(60).code == -signal.SIGKILL
    [run] = flow_runs(root)
    assert run.state_type.value == "RUNNING" and run.auto_scheduled
    published = set((root / ".espalier" / "objects").iterdir())

    serving = serve("--every", "5")
    decision = root / ".espalier" / "decisions" / "1.json"
    wait_until(decision.is_file, "a decision", serving)
    wait_until(lambda: "nothing new" in serving.err.read_text(), "a third run", serving)
    # Serving goes on, and garbage can be collected between two runs.
    wait_until(lambda: not is_locked(root / ".espalier" / "use.lock"), "a pause between two runs", serving)
    second = serve("--every", "5")
    refused = second.wait(SECONDS)
    assert refused.code == 2 and f"process {serving.pid}" in refused.err

    os.kill(serving.pid, signal.SIGINT)
    ended = serving.wait(SECONDS)
    assert ended.code == 0 and "Traceback" not in ended.err, ended
    assert ended.out.splitlines()[-1].startswith("stopped; ")
    assert left_of(serving.pid) == []

    runs = flow_runs(root)
    assert f"flow run {run.name} was left by a process that is gone: Crashed" in ended.out
    assert runs[0].id == run.id and runs[0].state_type.value == "CRASHED" and "was killed" in runs[0].state.message
    assert runs[1].state_type.value == "COMPLETED" and runs[1].auto_scheduled
    # What was published is found, not computed again.
    assert "cached" in line_about(ended.err, "sparsegpt-50 block 0")
    assert published <= set((root / ".espalier" / "objects").iterdir())
    assert not list((root / ".espalier" / "runs").iterdir())
    assert "is the champion" in ended.err and json.loads(decision.read_text())["moved"]


def line_about(text: str, label: str) -> str:
    return next(line for line in text.splitlines() if line.endswith(label))


@pytest.mark.long
def test_serving_stops_a_run_at_work_and_the_server_that_it_started(serve, root: Path, environment):
    """By SIGTERM, as a service manager stops it; without a server of others."""
    shutil.rmtree(root / ".espalier" / "objects", ignore_errors=True)
    shutil.rmtree(root / ".espalier" / "decisions", ignore_errors=True)
    own = environment.pop("PREFECT_API_URL")
    try:
        serving = serve("--every", "5")
        wait_until(lambda: "sparsegpt-50 block 0" in serving.err.read_text(), "the first block", serving)
    finally:
        environment["PREFECT_API_URL"] = own
    server = ui_servers.status(root)["prefect"]
    assert server["healthy"] and left_of(serving.pid)
    os.kill(serving.pid, signal.SIGTERM)
    ended = serving.wait(SECONDS)
    assert ended.code == 0, ended
    assert left_of(serving.pid) == [] and not psutil.pid_exists(server["pid"])
    assert not list((root / ".espalier" / "runs").iterdir())


@pytest.mark.long
def test_prefects_own_worker_runs_what_prefect_yaml_deploys(root: Path, environment, tmp_path: Path):
    environment = environment | prefect_settings.QUIET | {"PREFECT_HOME": str(tmp_path)}
    shutil.copy(ROOT / "prefect.yaml", root)
    shutil.copytree(ROOT / "flows", root / "flows", ignore=shutil.ignore_patterns("__pycache__"))

    def prefect(*arguments: str) -> str:
        command = [str(BIN / "prefect"), "--no-prompt", *arguments]
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    prefect("work-pool", "create", "espalier", "--type", "process")
    assert "scheduled/scheduled" in prefect("deploy", "--all")
    prefect("deployment", "run", "scheduled/scheduled")
    prefect("worker", "start", "--pool", "espalier", "--run-once")

    from prefect import get_client

    with get_client(sync_client=True) as client:
        [run] = [run for run in client.read_flow_runs() if (run.parameters or {}).get("root") == "." and run.start_time]
    assert run.state_type.value == "COMPLETED", run.state
    assert len(list((root / ".espalier" / "decisions").glob("*.json"))) == 1
