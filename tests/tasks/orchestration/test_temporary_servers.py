"""Prefect's temporary servers: one per command, whoever works for it."""

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(300)]

SCRIPT = """
import os, psutil, sys
from pathlib import Path
from tasks.orchestration import prefect_settings, temporary_servers

prefect_settings.apply(Path(sys.argv[1]))
from prefect import flow, task
from prefect.task_runners import ProcessPoolTaskRunner

def servers():
    found = psutil.Process(int(os.environ["COMMAND"])).children(recursive=True)
    return sum(temporary_servers.SERVER in one.cmdline() for one in found)

@task
def seen():
    return os.getpid(), servers()

@flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
def work():
    return [one.result() for one in [seen.submit(), seen.submit()]]

if __name__ == "__main__":
    os.environ["COMMAND"] = str(os.getpid())
    with temporary_servers.share_server():
        found = work()
    assert all(process != os.getpid() for process, _ in found), found
    print("servers", *(count for _, count in found))
"""


def test_workers_use_the_server_of_their_command(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["servers", "1", "1"]
