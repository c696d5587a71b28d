"""The wall clock set by a day or a year, between runs, in the middle of one, and under two at once: no work is lost.

A preloaded library (clock.c) gives a process another clock, and a `sitecustomize` moves the boot time that psutil reads
with it, as the kernel does when the clock is set. Times of files stay those of the machine.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import SWEEP, Undisturbed, begin, digests, finish, left_over, published, shown, tracked

from flows.servers.server_process import wait_until

JUMPS = {"+1 day": 86400, "-1 day": -86400, "+1 year": 365 * 86400, "-1 year": -365 * 86400}
SOURCE = Path(__file__).with_name("clock.c")
BOOT = """
import os
from pathlib import Path
from psutil import _pslinux

told, clock = _pslinux.boot_time, Path(os.environ["CHAOS_CLOCK"])
_pslinux.boot_time = lambda: told() + int.from_bytes(clock.read_bytes(), "little", signed=True)
"""


class Clock:
    """The clock of the processes that are started with `environment`."""

    def __init__(self, folder: Path, library: Path, environment: dict[str, str]) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(BOOT)
        self._file = folder / "offset"
        self._file.touch()
        self.set(0)
        path = os.pathsep.join([str(folder), environment["PYTHONPATH"]])
        variables = {"CHAOS_CLOCK": str(self._file), "LD_PRELOAD": str(library), "PYTHONPATH": path}
        self.environment = environment | variables

    def set(self, seconds: int) -> None:
        """From now on it says so many seconds more than the machine's."""
        # In place: processes have the file mapped.
        with self._file.open("r+b") as file:
            file.write(seconds.to_bytes(8, "little", signed=True))


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """clock.c, compiled."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("another clock for a process takes Linux and a C compiler")
    file = tmp_path_factory.mktemp("clock") / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", file, SOURCE], check=True)
    return file


@pytest.fixture
def clock(library: Path, checkout, tmp_path: Path) -> Clock:
    """A clock that can be set, and shows the machine's time."""
    clock = Clock(tmp_path / "clock", library, checkout)
    show = [sys.executable, "-c", "import datetime, time; print(time.time(), datetime.datetime.now().timestamp())"]
    clock.set(JUMPS["+1 year"])
    seen = subprocess.run(show, env=clock.environment, capture_output=True, text=True, check=True).stdout
    assert all(abs(float(one) - time.time() - JUMPS["+1 year"]) < 60 for one in seen.split())
    clock.set(0)
    return clock


def test_a_clock_set_again_and_again_in_a_run_and_once_more_between_runs_costs_nothing(
    shipped, undisturbed: Undisturbed, clock: Clock, figures
):
    root = shipped()
    process = begin(root, *SWEEP, environment=clock.environment)
    for number, jump in enumerate(JUMPS.values(), start=1):
        count = number * len(undisturbed.labels) // (len(JUMPS) + 1)
        assert wait_until(lambda n=count: len(published(root)) >= n or process.poll() is not None, 240, every=0.02)
        clock.set(jump)
    first = finish(process, root)
    assert first.code == 0, first.err
    assert sorted(shown(first, "computed")) == sorted(undisturbed.labels.values())
    assert digests(root) == undisturbed.digests and not left_over(root)
    runs = tracked(root)
    # From a year behind to now.
    clock.set(0)
    second = finish(begin(root, *SWEEP, environment=clock.environment), root)
    assert second.code == 0 and not shown(second, "computed") and tracked(root) == runs
    figures(
        "clock",
        f"the clock set by {', '.join(JUMPS)} in one sweep, and to the right time before the next: 0 steps computed "
        "twice, 0 digests differ",
        computed=len(shown(first, "computed")),
    )


@pytest.mark.parametrize("jump", ["+1 day", "-1 day"])
def test_processes_whose_clocks_differ_take_nothing_from_each_other(
    jump: str, shipped, undisturbed: Undisturbed, checkout, clock: Clock, figures, tmp_path: Path
):
    root = shipped()
    serverless = {name: value for name, value in checkout.items() if name != "PREFECT_API_URL"}
    # With a server of its own, which a process that takes it for dead would stop.
    first = begin(root, *SWEEP, environment=serverless)
    assert wait_until(lambda: len(published(root)) >= 3 or first.poll() is not None, 240, every=0.02)
    clock.set(JUMPS[jump])
    aside = tmp_path / "second"
    aside.mkdir()
    second = begin(root, *SWEEP, environment=clock.environment, output=aside)
    time.sleep(1)
    collected = finish(begin(root, "gc", "--yes", environment=clock.environment, output=tmp_path), tmp_path)
    done = [finish(first, root), finish(second, aside)]
    assert [one.code for one in done] == [0, 0], [one.err[-2000:] for one in done]
    assert collected.code == 2 and f"in use by process {first.pid} (" in collected.err, collected
    assert "Crashed" not in done[1].err and "KILLED" not in done[1].err
    steps = sorted(label for one in done for label in shown(one, "computed"))
    assert steps == sorted(undisturbed.labels.values())
    assert digests(root) == undisturbed.digests and not left_over(root)
    again = finish(begin(root, "gc", "--yes", environment=clock.environment, output=tmp_path), tmp_path)
    assert again.code == 0 and digests(root) == undisturbed.digests, again
    figures(
        f"clocks{jump.replace(' ', '')}",
        f"two sweeps and `gc` at once, clocks {jump} apart: 0 locks, runs or results taken from a living process, 0 "
        "steps computed twice, 0 digests differ",
        computed=len(steps),
    )
