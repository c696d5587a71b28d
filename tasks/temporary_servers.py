"""Prefect's temporary servers: one that outlived its run (kill -9 does that) is stopped by the next run."""

import contextlib
import os
import threading

import psutil

OWNER = "ESPALIER_OWNER"
SERVER = "prefect.server.api.server:create_app"
# Start times are counted in hundredths of a second; a process that was given the same number is younger by far more.
SAME_START_SECONDS = 0.5


def claim() -> None:
    """Every server that this process starts from now on tells whose it is."""
    own = psutil.Process()
    os.environ[OWNER] = f"{own.pid} {own.create_time()}"


def start() -> threading.Thread | None:
    """Begin to start the server that a flow would start itself; None where another one is used.

    A start that fails is left to the flow, which tries again and says why.
    """
    if "PREFECT_API_URL" in os.environ:
        return None
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings

    timeout = get_current_settings().server.ephemeral.startup_timeout_seconds

    def begin() -> None:
        with contextlib.suppress(RuntimeError, OSError):
            SubprocessASGIServer().start(timeout)

    starting = threading.Thread(target=begin, daemon=True)
    starting.start()
    return starting


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
