"""Where processes that calibrate together find each other, when nobody like `torchrun` tells them."""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import TCPStore

LOCAL = "127.0.0.1"
PATIENCE = timedelta(minutes=5)
"""How long a process looks for the first one, which calls all of them."""


@dataclass(frozen=True)
class Meeting:
    """A place of `count` processes: the first one's torch.distributed store."""

    host: str
    port: int
    count: int

    @classmethod
    def call(cls, count: int, here: bool) -> tuple["Meeting", TCPStore]:
        """The first process's: a place of its choice, and its store.

        Args:
            here: all processes are on this machine. Otherwise they find it under the address of its host name, or
                under that of MASTER_ADDR.
        """
        host = LOCAL if here else os.environ.get("MASTER_ADDR") or socket.gethostbyname(socket.gethostname())
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        return cls(host, store.port, count), store

    def store(self) -> TCPStore:
        """Another process's."""
        return TCPStore(self.host, self.port, is_master=False, timeout=PATIENCE)

    def all_came(self, store: TCPStore) -> bool:
        """Whether every other process has begun to join."""
        return store.check([came(rank) for rank in range(1, self.count)])


def came(rank: int) -> str:
    """Key of the store that a process sets when it begins to join."""
    return f"came {rank}"
