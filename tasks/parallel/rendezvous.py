"""Where the workers of a search find the process that they work for."""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import TCPStore

LOCAL = "127.0.0.1"
PATIENCE = timedelta(minutes=5)
"""How long a worker looks for the process that called it."""


@dataclass(frozen=True)
class Meeting:
    """The place of that process's torch.distributed store."""

    host: str
    port: int

    @classmethod
    def call(cls, here: bool) -> tuple["Meeting", TCPStore]:
        """That process's own: a place of its choice, and its store.

        Args:
            here: all workers are on this machine. Otherwise they find it under the address of its host name, or under
                that of MASTER_ADDR.
        """
        host = LOCAL if here else os.environ.get("MASTER_ADDR") or socket.gethostbyname(socket.gethostname())
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        return cls(host, store.port), store

    def store(self) -> TCPStore:
        """A worker's."""
        return TCPStore(self.host, self.port, is_master=False, timeout=PATIENCE)
