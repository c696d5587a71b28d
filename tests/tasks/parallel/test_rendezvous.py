"""What the process that calls workers sees of them, on this machine and on others."""

import subprocess
import time

import pytest

from tasks.parallel import rendezvous
from tasks.parallel.rendezvous import Rendezvous, WorkerWatch

WORKER = """
import sys
import time
from tasks.parallel.rendezvous import Rendezvous

with Rendezvous("127.0.0.1", int(sys.argv[1]), here=sys.argv[2] == "here").enter():
    print("entered", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def enter(start):
    def begin(port: int, where: str) -> subprocess.Popen:
        worker = start(WORKER, str(port), where)
        assert worker.stdout.readline() == "entered\n"
        return worker

    return begin


def test_a_worker_of_this_machine_is_missed_as_soon_as_it_is_killed(enter):
    place, store = Rendezvous.open(here=True)
    watch = WorkerWatch(place, store)
    assert watch.lost() is None
    workers = [enter(place.port, "here") for _ in range(2)]
    assert watch.lost() is None
    workers[1].kill()
    workers[1].wait()
    assert watch.lost().startswith(f"process {workers[1].pid} on ")
    assert watch.lost().endswith(" was terminated abruptly")


def test_a_worker_of_another_machine_is_missed_when_it_falls_silent(enter, monkeypatch):
    monkeypatch.setattr(rendezvous, "SILENCE_SECONDS", 4.0)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    place, store = Rendezvous.open(here=False)
    watch, worker = WorkerWatch(place, store), enter(place.port, "elsewhere")
    begun = time.monotonic()
    while time.monotonic() - begun < 6:
        assert watch.lost() is None
        time.sleep(0.5)
    worker.kill()
    begun = time.monotonic()
    while (lost := watch.lost()) is None:
        assert time.monotonic() - begun < 10
        time.sleep(0.5)
    assert lost.startswith(f"process {worker.pid} on ") and lost.endswith("was not heard of for 4 seconds")
    assert time.monotonic() - begun > 2
