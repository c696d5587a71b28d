"""A scheduled flow really runs: with SQLAlchemy 2.1 Prefect schedules nothing and says nothing."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
from prefect import flow


@flow
def beat():
    return "done"


if __name__ == "__main__":
    beat.serve(name="beat", interval=10, limit=1)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    """A process with its log in `folder`; it and all that it started are gone afterwards."""
    with (folder / f"{command[-1].replace('/', '_')}.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        yield
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGTERM)
        # Prefect's workers are known to ignore the first request to stop.
        for survivor in psutil.wait_procs(family, timeout=5)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
        process.wait(timeout=10)


def wait_for(condition: Callable[[], object], seconds: float, what: str, folder: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text()[-3000:] for path in folder.glob("*.log"))
            pytest.fail(f"{what} did not happen within {seconds} s\n{logs}")
        time.sleep(1)


def post(url: str, body: dict[str, object]) -> list[dict[str, object]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def test_a_scheduled_run_appears_and_finishes(tmp_path):
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    server = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    (tmp_path / "beat.py").write_text(SCRIPT)
    client = {**environment, "PREFECT_API_URL": api}

    def completed() -> list[dict[str, object]]:
        runs = post(f"{api}/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}})
        return [run for run in runs if run["auto_scheduled"]]

    with running(server, environment, tmp_path):
        wait_for(lambda: answers(f"{api}/health"), 180, "the start of the server", tmp_path)
        with running([sys.executable, "beat.py"], client, tmp_path):
            wait_for(completed, 120, "a finished scheduled run", tmp_path)
    assert not answers(f"{api}/health")
