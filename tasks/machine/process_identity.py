"""The identity of a process: its machine, its number and its start time, which no other process shares."""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

VARIABLE = "ESPALIER_OWNER"
"""Set to "pid created" in the environment of what a process starts."""
GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Owner:
    """A process that owns other processes, runs or files.

    host: name of its machine.
    pid: its number there.
    created: when it was started, as `tasks.machine.process_identity.start_time` says it.
    """

    host: str
    pid: int
    created: str

    @classmethod
    def here(cls) -> "Owner":
        """This process."""
        process = psutil.Process()
        return cls(socket.gethostname(), process.pid, start_time(process))

    @classmethod
    def parse(cls, text: str) -> "Owner":
        """The process that "pid created" in an environment of this machine means."""
        pid, created = text.split()
        return cls(socket.gethostname(), int(pid), created)

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def is_gone(self) -> bool:
        """Whether that process has ended; one of another machine counts as running."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            return start_time(process) != self.created or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def claim() -> None:
    """Mark everything that this process starts from now on as its own."""
    owner = Owner.here()
    os.environ[VARIABLE] = f"{owner.pid} {owner.created}"


def owned_processes(owner: Owner) -> Iterator[psutil.Process]:
    """The live processes that `owner` started since its claim, and what these started, wherever they run by now."""
    mark = f"{owner.pid} {owner.created}"
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            # A child that was just forked bears its parent's environment, and is its parent's.
            if process.pid != owner.pid and process.environ().get(VARIABLE) == mark:
                yield process


def stop_owned(owner: Owner) -> int:
    """Stop everything that `owner` started, by SIGTERM and then SIGKILL; returns how many processes there were."""
    terminated = [process for process in owned_processes(owner) if _send(process, psutil.Process.terminate)]
    psutil.wait_procs(terminated, timeout=GRACE_SECONDS)
    # Anew: what was asked to stop may have started others on its way out.
    killed = [process for process in owned_processes(owner) if _send(process, psutil.Process.kill)]
    psutil.wait_procs(killed, timeout=GRACE_SECONDS)
    return len({*terminated, *killed})


def _send(process: psutil.Process, signal_it: Any) -> bool:
    with contextlib.suppress(psutil.Error):
        signal_it(process)
        return True
    return False


BOOT = Path("/proc/sys/kernel/random/boot_id")
STATE_FIELD, START_FIELD = 3, 22
"""Of /proc/PID/stat, counted from 1; everything before the state may hold spaces."""


def start_time(process: psutil.Process) -> str:
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
