"""How workers of a search connect to their process, and how that process notices a lost worker.

What a task runner tells of a killed worker is not enough. A pool of processes does not hear of one that was killed
while the next one was started, and Dask gives its task to another worker, while the piece that it had is nobody's.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import DistError, TCPStore

from tasks.machine.process_identity import Owner

LOCAL = "127.0.0.1"
PATIENCE = timedelta(minutes=5)
"""How long a worker looks for the process that called it."""
ENTERED = "entered"
BEAT_SECONDS = 1.0
SILENCE_SECONDS = 60.0
"""After so long without a beat a worker of a cluster counts as lost."""


@dataclass(frozen=True)
class Rendezvous:
    """The address of the process's torch.distributed store.

    Args:
        here: all workers are on this machine, where a process can be looked at. Those of a cluster send beats.
    """

    host: str
    port: int
    here: bool

    @classmethod
    def open(cls, here: bool) -> tuple["Rendezvous", TCPStore]:
        """Open a store in this process; returns its address and the store.

        Workers that are not `here` find it under the address of its host name, or under that of MASTER_ADDR.
        """
        host = LOCAL if here else os.environ.get("MASTER_ADDR") or socket.gethostbyname(socket.gethostname())
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        return cls(host, store.port, here), store

    @contextlib.contextmanager
    def enter(self) -> Iterator[TCPStore]:
        """Connect a worker to the store. Inside the block the worker is watched: if it ends, that is an error."""
        store, entry = self._connect(), json.dumps(Owner.here().facts())
        left = threading.Event()
        if not self.here:
            # A connection of its own: one call at a time goes over each, and the worker waits in one for its pieces.
            threading.Thread(target=_beat, args=(self._connect(), _beats(entry), left), daemon=True).start()
        store.append(ENTERED, f"{entry}\n")
        try:
            yield store
        finally:
            left.set()

    def _connect(self) -> TCPStore:
        return TCPStore(self.host, self.port, is_master=False, timeout=PATIENCE)


class WorkerWatch:
    """The workers that entered a rendezvous, watched by the process that opened it."""

    def __init__(self, rendezvous: Rendezvous, store: TCPStore) -> None:
        self._rendezvous, self._store = rendezvous, store
        self._beats: dict[str, tuple[int, float]] = {}
        """Worker -> its number of beats, and when that was new, on this machine's clock."""

    def lost(self) -> str | None:
        """A sentence on the first lost worker; None where all are at work."""
        entries = self._store.get(ENTERED).decode().splitlines() if self._store.check([ENTERED]) else []
        for entry in entries:
            owner = Owner(**json.loads(entry))
            if self._rendezvous.here and owner.is_gone():
                return f"{owner} was terminated abruptly"
            if not self._rendezvous.here and self._silent(entry):
                return f"{owner} was not heard of for {SILENCE_SECONDS:g} seconds"
        return None

    def _silent(self, entry: str) -> bool:
        beats, now = self._store.add(_beats(entry), 0), time.monotonic()
        if self._beats.get(entry, (-1, now))[0] != beats:
            self._beats[entry] = beats, now
        return now - self._beats[entry][1] > SILENCE_SECONDS


def _beats(entry: str) -> str:
    return f"beats of {entry}"


def _beat(store: TCPStore, key: str, left: threading.Event) -> None:
    # Without the process that counts the beats there is no use in them.
    with contextlib.suppress(DistError):
        while not left.wait(BEAT_SECONDS):
            store.add(key, 1)
