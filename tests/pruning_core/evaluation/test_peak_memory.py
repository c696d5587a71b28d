"""Peak memory: what was given back before the reset does not count, what was given back after it does."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pruning_core.evaluation.peak_memory import peak_bytes, reset_peak

MB = 10**6
# In a process of its own: what other tests left in this one would be filled first. Bytes that are not zero, for the
# system gives pages of zeros only when they are read.
ALLOCATES = f"""
from pruning_core.evaluation.peak_memory import peak_bytes, reset_peak
held = b"1" * (300 * {MB})
held = None
print(peak_bytes())
reset_peak()
print(peak_bytes())
held = b"1" * (50 * {MB})
held = None
print(peak_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_memory_given_back_before_the_reset_is_forgotten():
    command = [sys.executable, "-c", ALLOCATES]
    root = Path(__file__).resolve().parents[3]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout
    whole, fresh, served = (int(line) for line in told.split())
    assert whole >= 300 * MB > served
    assert served - fresh == pytest.approx(50 * MB, abs=5 * MB)


def test_where_the_system_shows_no_process_the_peak_of_its_whole_life_is_told(tmp_path: Path):
    reset_peak(tmp_path / "missing")
    unit = 1 if sys.platform == "darwin" else 1024
    least = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert least <= peak_bytes(tmp_path / "missing") <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def test_the_figure_is_in_bytes_of_the_systems_kilobytes(tmp_path: Path):
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t  900 kB\nVmHWM:\t  123 kB\nVmRSS:\t  100 kB\n")
    reset_peak(tmp_path)
    assert (tmp_path / "clear_refs").read_text() == "5"
    assert peak_bytes(tmp_path) == 123 * 1024
