"""A server as a detached process: start it, recognise it later, and stop it with its children."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from tasks.machine.process_identity import position, start_time

TERM_SECONDS = (10.0, 4.0)
KILL_SECONDS = 5.0


@dataclass(frozen=True)
class ServiceProcess:
    """The first process of a server; it leads a session of its own, to which its children belong."""

    pid: int
    created: str
    port: int

    def facts(self) -> dict[str, int | str]:
        """As JSON."""
        return asdict(self)

    def alive(self) -> bool:
        """Whether that very process runs: not a zombie, and not another one that was given its number."""
        try:
            process = psutil.Process(self.pid)
            return start_time(process) == self.created and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def members(self) -> list[psutil.Process]:
        """Every live process of the server, also those that outlived the first one.

        Empty when the number now belongs to another process: the kernel gives a number away only when no
        session bears it any more.
        """
        if psutil.pid_exists(self.pid) and not self.alive() and not self._zombie():
            return []
        processes = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                younger = position(start_time(process)) >= position(self.created)
                if os.getsid(process.pid) == self.pid and younger:
                    processes.append(process)
        return [process for process in processes if process.is_running()]

    def stop(self) -> bool:
        """Ask twice, then kill; False when nothing was running.

        Prefect's processes are known to ignore the first SIGTERM.
        """
        members = self.members()
        for sign, seconds in zip(
            (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL), (*TERM_SECONDS, KILL_SECONDS), strict=True
        ):
            for process in self.members():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(sign)
            psutil.wait_procs(members, timeout=seconds)
            if not self.members():
                break
        return bool(members)

    def _zombie(self) -> bool:
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def launch(arguments: list[str], environment: dict[str, str], log: Path, port: int) -> ServiceProcess:
    """Start `python -m arguments` in a session of its own, its output in `log`.

    It outlives this process and its terminal, and holds none of its files.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    # Spawned and not subprocess.Popen, which wants to be waited for.
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", *arguments],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    return ServiceProcess(pid, start_time(psutil.Process(pid)), port)


def wait_until(condition: Callable[[], bool], seconds: float, every: float = 0.25) -> bool:
    """Whether `condition()` became true in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(every)
    return bool(value)
