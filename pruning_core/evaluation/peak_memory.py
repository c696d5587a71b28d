"""Peak memory: the most that this process has had at once since a chosen moment."""

import contextlib
import sys
from pathlib import Path

PROC = Path("/proc/self")


def reset_peak(proc: Path = PROC) -> None:
    """Forget what the process had at most until now; where the system cannot, `peak_bytes` tells of its whole life.

    Args:
        proc: the folder of the process as Linux shows it.
    """
    with contextlib.suppress(OSError):
        (proc / "clear_refs").write_text("5")


def peak_bytes(proc: Path = PROC) -> int:
    """Resident bytes at their highest since `reset_peak`: everything in the process, libraries included, and of the
    files that it maps, such as weights, the pages that were in memory.

    Where /proc has no such figure (macOS), that of getrusage.
    """
    with contextlib.suppress(OSError):
        for line in (proc / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    # Not the first choice: on Linux a process is born with the peak of the one that started it. Kibibytes on Linux,
    # bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
