"""The wall clock set by a day or a year, between runs, in the middle of one, and under two at once: no work is lost.

libfaketime gives a process another clock, and a `sitecustomize` moves the boot time that psutil reads with it, as the
kernel does when the clock is set. Times of files stay those of the machine.
"""

import os
import time
from pathlib import Path

import pytest
from faults import SWEEP, Undisturbed, begin, digests, finish, left_over, published, shown, tracked

from tasks.service_process import wait_until

JUMPS = {"+1 day": 86400, "-1 day": -86400, "+1 year": 365 * 86400, "-1 year": -365 * 86400}
LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
BOOT = """
import os
from pathlib import Path
from psutil import _pslinux

told = _pslinux.boot_time
_pslinux.boot_time = lambda: told() + float(Path(os.environ["FAKETIME_TIMESTAMP_FILE"]).read_text())
"""

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime (Debian: apt install faketime)")


class Clock:
    """The clock of the processes that are started with `environment`."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(BOOT)
        self._file = folder / "offset"
        self.set(0)
        path = os.pathsep.join([str(folder), environment["PYTHONPATH"]])
        fake = {"FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_CACHE_DURATION": "1", "NO_FAKE_STAT": "1"}
        fake |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "LD_PRELOAD": str(LIBRARY)}
        self.environment = environment | fake | {"PYTHONPATH": path}

    def set(self, seconds: int) -> None:
        """From now on it says so many seconds more than the machine's."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        new.replace(self._file)


def test_a_clock_set_again_and_again_in_a_run_and_once_more_between_runs_costs_nothing(
    shipped, undisturbed: Undisturbed, checkout, figures, tmp_path: Path
):
    root, clock = shipped(), Clock(tmp_path / "clock", checkout)
    process = begin(root, *SWEEP, environment=clock.environment)
    for number, jump in enumerate(JUMPS.values(), start=1):
        wanted = number * len(undisturbed.labels) // (len(JUMPS) + 1)
        assert wait_until(lambda n=wanted: len(published(root)) >= n or process.poll() is not None, 240, every=0.02)
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
    jump: str, shipped, undisturbed: Undisturbed, checkout, figures, tmp_path: Path
):
    root, clock = shipped(), Clock(tmp_path / "clock", checkout)
    own = {name: value for name, value in checkout.items() if name != "PREFECT_API_URL"}
    # With a server of its own, which a process that takes it for dead would stop.
    first = begin(root, *SWEEP, environment=own)
    assert wait_until(lambda: len(published(root)) >= 3 or first.poll() is not None, 240, every=0.02)
    clock.set(JUMPS[jump])
    aside = tmp_path / "second"
    aside.mkdir()
    second = begin(root, *SWEEP, environment=clock.environment, output=aside)
    time.sleep(1)
    collected = finish(begin(root, "gc", "--yes", environment=clock.environment, output=tmp_path), tmp_path)
    done = [finish(first, root), finish(second, aside)]
    assert [one.code for one in done] == [0, 0], [one.err[-2000:] for one in done]
    assert collected.code == 0, collected
    assert "Crashed" not in done[1].err and "KILLED" not in done[1].err
    steps = sorted(label for one in done for label in shown(one, "computed"))
    assert steps == sorted(undisturbed.labels.values())
    assert digests(root) == undisturbed.digests and not left_over(root)
    figures(
        f"clocks{jump.replace(' ', '')}",
        f"two sweeps and `gc` at once, clocks {jump} apart: 0 locks, runs or results taken from a living process, 0 "
        "steps computed twice, 0 digests differ",
        computed=len(steps),
    )
