"""Processes known again: by number and start, on this machine only; and all that one started, stopped."""

import dataclasses
import os
import subprocess
import sys
import time

import psutil
import pytest

from tasks.machine import process_identity
from tasks.machine.process_identity import VARIABLE, Owner

# Starts a process in a session of its own that ignores SIGTERM, and sleeps.
FAMILY = """
import subprocess, sys, time
stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(300)"
child = subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True)
time.sleep(300)
"""


def test_this_process_lives_and_one_of_the_same_number_that_started_earlier_is_gone():
    own = Owner.here()
    assert not own.is_gone()
    assert dataclasses.replace(own, created=f"{own.created}0").is_gone()


def test_a_clock_that_is_set_moves_no_process(monkeypatch):
    psutil_on_linux = pytest.importorskip("psutil._pslinux")
    own, seen = Owner.here(), psutil.Process().create_time()
    booted = psutil_on_linux.boot_time()
    # What the kernel tells of the boot is the time now less the time since then.
    monkeypatch.setattr(psutil_on_linux, "boot_time", lambda: booted + 24 * 60 * 60)
    assert psutil.Process().create_time() == pytest.approx(seen + 24 * 60 * 60)
    assert not own.is_gone() and Owner.here() == own


def test_an_ended_process_is_gone_but_of_another_machine_nobody_can_tell():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    ended = dataclasses.replace(Owner.here(), pid=process.pid)
    assert ended.is_gone()
    assert not dataclasses.replace(ended, host="elsewhere").is_gone()


def test_everything_that_a_process_started_is_stopped_and_nothing_else():
    owner = Owner("here", os.getpid(), "boot:125")
    mark = {**os.environ, VARIABLE: f"{owner.pid} {owner.created}"}
    first = subprocess.Popen([sys.executable, "-c", FAMILY], env=mark, stdout=subprocess.PIPE)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        assert first.stdout.readline() == b"up\n"
        family = {process.pid for process in process_identity.owned_processes(owner)}
        assert len(family) == 2 and first.pid in family
        # Its parent gone, the child is found by its environment alone.
        first.kill()
        first.wait()
        assert process_identity.stop_owned(owner) == 1
        deadline = time.monotonic() + 10
        while list(process_identity.owned_processes(owner)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(process_identity.owned_processes(owner)) == []
        assert psutil.Process(bystander.pid).is_running() and bystander.poll() is None
    finally:
        for process in (first, bystander):
            process.kill()
            process.wait()
