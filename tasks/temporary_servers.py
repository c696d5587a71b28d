"""Prefect's temporary servers: one that outlived its run (kill -9 does that) is stopped by the next run."""

import contextlib
import os

import psutil

OWNER = "ESPALIER_OWNER"
SERVER = "prefect.server.api.server:create_app"
# Start times are counted in hundredths of a second; a process that was given the same number is younger by far more.
SAME_START_SECONDS = 0.5


def claim() -> None:
    """Every server that this process starts from now on tells whose it is."""
    own = psutil.Process()
    os.environ[OWNER] = f"{own.pid} {own.create_time()}"


def stop_orphans() -> list[int]:
    """Stop the claimed servers whose owner is gone; returns their process ids. Those of others stay."""
    stopped = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if SERVER in process.cmdline() and _is_gone(process.environ().get(OWNER)):
                process.terminate()
                stopped.append(process.pid)
    return stopped


def _is_gone(owner: str | None) -> bool:
    if owner is None:
        return False
    pid, created = owner.split()
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(created)) > SAME_START_SECONDS
    except psutil.NoSuchProcess:
        return True
