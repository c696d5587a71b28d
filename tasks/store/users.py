"""Which living processes use a store, and since when: what one of them may have found must not be taken away.

root/users/<process>-<token>.lock  locked for as long as its process lives; its time is that of its first use
root/locks/users                   held for an instant by whoever enters or looks
root/locks/removal                 shared while an artifact is being found, held alone while one is taken away
"""

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from tasks.store.locks import FileLock, locked, shared


class Presence:
    """The processes that use the store below `root`."""

    _entered: ClassVar[dict[tuple[int, Path], FileLock]] = {}
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, root: Path) -> None:
        self._root = root
        self._users = root / "users"
        self._gate = root / "locks" / "users"
        self._removal = root / "locks" / "removal"

    def enter(self) -> None:
        """From now on, until its end, this process is one of them."""
        own = os.getpid(), self._root
        with self._guard:
            if own in self._entered:
                return
            lock = FileLock(self._users / f"{own[0]}-{secrets.token_hex(8)}.lock")
            # Entering and looking exclude each other: nobody sees a file that is not locked yet.
            with locked(self._gate):
                lock.acquire()
                # What earlier processes left, however they ended, goes here: each leaves a file.
                self._living(lock.path)
            self._entered[own] = lock

    def since(self) -> list[float]:
        """When each of them entered, as times of files, the first one first; this process is one of them."""
        self.enter()
        own = self._entered[os.getpid(), self._root].path
        with locked(self._gate):
            return sorted(path.stat().st_mtime for path in self._living(own))

    def _living(self, own: Path) -> list[Path]:
        """The files of living processes; those of others are removed. To be called with the gate held."""
        living = []
        for path in self._users.glob("*"):
            user = FileLock(path)
            if path != own and user.acquire(timeout=0):
                path.unlink()
                user.release()
            else:
                living.append(path)
        return living

    @contextmanager
    def finding(self, file: Path) -> Iterator[None]:
        """Inside the block the artifact of `file` stays, and afterwards it counts as used now.

        Where the clock was set back since this process entered, as used at its entry: it is still of its time.
        """
        self.enter()
        with shared(self._removal):
            if file.is_file():
                os.utime(file)
                entered = self._entered[os.getpid(), self._root].path.stat()
                if file.stat().st_mtime < entered.st_mtime:
                    os.utime(file, ns=(entered.st_mtime_ns, entered.st_mtime_ns))
            yield

    @contextmanager
    def removing(self) -> Iterator[None]:
        """Inside the block nobody is finding anything."""
        with locked(self._removal):
            yield
