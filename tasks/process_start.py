"""When a process was started, told so that no change of the clock moves it: what a number and a start name stays named.

Linux counts in ticks from the boot; the wall-clock time that others derive from that jumps with the clock, and a living
process would then look like another one that was given its number.
"""

from pathlib import Path

import psutil

BOOT = Path("/proc/sys/kernel/random/boot_id")
STATE_FIELD, START_FIELD = 3, 22
"""Of /proc/PID/stat, counted from 1; everything before the state may hold spaces."""


def started(process: psutil.Process) -> str:
    """ "boot:ticks" on Linux, elsewhere ":seconds since 1970"; equal for one process at all times, and unequal for two.

    Raises:
        psutil.NoSuchProcess: there is no such process any more.
    """
    if not BOOT.is_file():
        return f":{process.create_time():.2f}"
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise psutil.NoSuchProcess(process.pid) from error
    return f"{BOOT.read_text().strip()}:{fields[START_FIELD - STATE_FIELD]}"


def position(start: str) -> float:
    """Larger for what was started later, of processes of one boot."""
    return float(start.rpartition(":")[2])
