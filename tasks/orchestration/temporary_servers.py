"""Prefect's temporary servers: start one early, share it with workers, and stop those that a killed run left."""

import contextlib
import os
import threading
from collections.abc import Iterator

import psutil

from tasks.machine.process_identity import VARIABLE, Owner

SERVER = "prefect.server.api.server:create_app"


def start() -> threading.Thread | None:
    """Start in the background the server that a flow would start itself; None where another one is used.

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


@contextlib.contextmanager
def share_server(url: str | None = None) -> Iterator[None]:
    """Inside the block workers of a task runner use this process's temporary server: each would start one of its own,
    which takes as long as making a small variant.

    Args:
        url: of the server that the thread which began this one uses, where it uses one.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, temporary_settings

    address = url or PREFECT_API_URL.value()
    if not address:
        server = SubprocessASGIServer()
        server.start()
        address = server.api_url
    with temporary_settings({PREFECT_API_URL: address}):
        yield


def stop_orphans() -> list[int]:
    """Stop the claimed servers whose owner is gone; returns their process ids. Those of others stay."""
    stopped = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            owner = process.environ().get(VARIABLE)
            if SERVER in process.cmdline() and owner and Owner.parse(owner).is_gone():
                process.terminate()
                stopped.append(process.pid)
    return stopped
