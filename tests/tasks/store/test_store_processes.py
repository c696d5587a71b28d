"""The store under real processes: at the same time, and killed with signal 9."""

import signal
import threading
import time

import pytest

from tasks.progress import reporting
from tasks.store.store import Store

WORK = """
import sys, time
from pathlib import Path
from tasks.store.store import Store
root, gate = Path(sys.argv[1]), Path(sys.argv[2])

def work(out):
    with (root.parent / "runs").open("a") as runs:
        runs.write("run\\n")
    (out / "half").write_text("half")
    print("computing", flush=True)
    while not gate.exists():
        time.sleep(0.02)
    (out / "whole").write_text("whole")
    return {"answer": 42}

store = Store(root)
print("asking", flush=True)
artifact = store.get_or_compute("answer", "k1", {"params": {}}, work)
print(artifact.hit, [event["event"] for event in store.events], flush=True)
"""


def runs(store):
    return (store.root.parent / "runs").read_text().count("run")


@pytest.fixture
def gate(tmp_path):
    """What a computation waits for."""
    return tmp_path / "gate"


def lines(process, *expected):
    """Read the next lines that the process prints."""
    assert [process.stdout.readline().strip() for _ in expected] == list(expected)


def find_or_make(store):
    return store.get_or_compute("answer", "k1", {"params": {}}, lambda out: {"answer": 0})


def test_processes_that_ask_for_one_key_wait_for_the_first_and_share_its_result(store, start, gate):
    first = start(WORK, store.root, gate)
    lines(first, "asking", "computing")
    others = [start(WORK, store.root, gate) for _ in range(2)]
    for other in others:
        lines(other, "asking")
    time.sleep(0.5)
    gate.touch()
    assert first.communicate(timeout=60)[0] == "False []\n"
    assert [other.communicate(timeout=60)[0] for other in others] == ["True ['waiting']\n"] * 2
    assert runs(store) == 1


def test_threads_at_once_compute_once(store):
    made, barrier = [], threading.Barrier(4)

    def work(out):
        made.append(1)
        time.sleep(0.2)

    def ask():
        barrier.wait()
        store.get_or_compute("answer", "k1", {"params": {}}, work)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_wait_shows_in_the_progress(store, start, gate):
    seen = []

    class Notes:
        def start(self, label, total):
            seen.append(label)
            gate.touch()
            return seen.append

    first = start(WORK, store.root, gate)
    lines(first, "asking", "computing")
    with reporting(Notes()):
        assert find_or_make(store).facts == {"answer": 42}
    assert seen[0].startswith(f"waiting for answer, which process {first.pid} on ") and seen[1:] == [1]


def test_after_kill_9_in_the_middle_the_rest_is_swept_and_the_step_is_done_again(store, start, gate):
    killed = start(WORK, store.root, gate)
    lines(killed, "asking", "computing")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(list((store.root / "tmp").iterdir())) == 2
    assert find_or_make(store).facts == {"answer": 0}
    assert list((store.root / "tmp").iterdir()) == []
    assert [path.name for path in store.objects.iterdir()] == ["k1"]


def test_a_sweep_leaves_what_a_living_process_is_writing(store, start, gate):
    working = start(WORK, store.root, gate)
    lines(working, "asking", "computing")
    store.builds.remove_abandoned()
    store.get_or_compute("other", "k2", {"params": {}}, lambda out: None)
    gate.touch()
    assert working.communicate(timeout=60)[0] == "False []\n"
    assert (store.find("k1").path / "whole").read_text() == "whole"


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from tasks.store import store as module

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

name = sys.argv[2]
if name == "rename":
    Path.rename = die
else:
    setattr(module, name, die)

def work(out):
    (out / "whole").write_text("whole")

module.Store(Path(sys.argv[1])).get_or_compute("answer", "k1", {"params": {}}, work)
"""


@pytest.mark.parametrize("moment", ["write_json", "complete_manifest", "flush", "rename", "flush_one"])
def test_a_kill_at_any_moment_of_publication_leaves_a_whole_artifact_or_none(store, start, moment):
    process = start(KILLED_AT, store.root, moment)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    there, problem = store.check("k1")
    assert problem is None and (there is not None) == (moment == "flush_one")
    assert (find_or_make(store).facts == {}) == (moment == "flush_one")
    assert list((store.root / "tmp").glob("k1*")) == [] or moment == "flush_one"


def test_an_artifact_that_several_threads_find_altered_is_set_aside_once(store):
    find_or_make(store)
    (store.objects / "k1" / "manifest.json").unlink()
    barrier = threading.Barrier(4)

    def ask():
        barrier.wait()
        Store(store.root).get_or_compute("answer", "k1", {"params": {}}, lambda out: {"answer": 1})

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list((store.root / "altered").iterdir())) == 1
    assert store.find("k1").facts == {"answer": 1}
