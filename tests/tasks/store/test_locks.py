import os
import signal
import threading
import time

import pytest

from tasks.store.locks import FileLock, is_locked, locked

HOLD = """
import sys, time
from pathlib import Path
from tasks.store.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_threads_of_one_process_exclude_each_other(tmp_path):
    inside, most = 0, 0

    def work():
        nonlocal inside, most
        for _ in range(20):
            with locked(tmp_path / "lock"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_the_lock_of_a_process_killed_with_signal_9_is_free_at_once(tmp_path, start):
    holder = start(HOLD, tmp_path / "lock")
    assert holder.stdout.readline() == "held\n"
    assert is_locked(tmp_path / "lock")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not is_locked(tmp_path / "lock")


def test_a_wait_names_the_holder_and_says_when_it_is_over(tmp_path, start):
    holder, seen = start(HOLD, tmp_path / "lock"), []
    holder.stdout.readline()

    def on_wait(name):
        seen.append(name)
        holder.kill()
        return lambda: seen.append("over")

    with locked(tmp_path / "lock", on_wait):
        assert seen[0].startswith(f"process {holder.pid} on ")
        assert seen[1:] == ["over"]


def test_a_timeout_gives_up_and_leaves_no_handle(tmp_path):
    with locked(tmp_path / "lock"):
        second = FileLock(tmp_path / "lock")
        begun = time.monotonic()
        assert not second.acquire(timeout=0.2)
        assert 0.15 < time.monotonic() - begun < 2
        assert not second.held
    assert second.acquire(timeout=0)
    second.release()


def test_a_forked_child_that_outlives_the_holder_does_not_keep_the_lock(tmp_path):
    reading, writing = os.pipe()
    with locked(tmp_path / "lock"):
        child = os.fork()
        if child == 0:
            os.read(reading, 1)
            os._exit(0)
    try:
        assert not is_locked(tmp_path / "lock")
    finally:
        os.write(writing, b"x")
        os.waitpid(child, 0)


def test_the_file_stays_so_that_everyone_locks_the_same_one(tmp_path):
    with locked(tmp_path / "lock"):
        inode = (tmp_path / "lock").stat().st_ino
    assert (tmp_path / "lock").stat().st_ino == inode


def test_one_lock_object_cannot_be_taken_twice(tmp_path):
    lock = FileLock(tmp_path / "lock")
    lock.acquire()
    with pytest.raises(RuntimeError, match="already locked"):
        lock.acquire()
    lock.release()
    lock.release()
