"""One lock for a whole store: whoever uses the store shares it, and garbage collection has it alone.

The file is never unlinked, and the kernel frees the lock with the process that holds it, kill -9 included. So no clock
and no record says who is living, and what a process found or made stays for as long as it may look at it.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from pruning_core.errors import InputError
from tasks.machine.open_files import holders
from tasks.progress import current
from tasks.store.locks import locked_at_once, share, unlock

SHOWN_USERS = 4


class UseLock:
    """The lock of the store below `root`."""

    _entered: ClassVar[dict[tuple[int, Path], int]] = {}
    _blocks: ClassVar[Counter[tuple[int, Path]]] = Counter()
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, root: Path) -> None:
        self._path = root / "use.lock"

    def enter(self) -> None:
        """From now on this process uses the store, until its end; inside a block of `shared` until the block's.

        It waits where the store is being collected. Threads of one process either all have such a block, or the first
        of them that begins one does so after the process entered.
        """
        key = os.getpid(), self._path
        with self._guard:
            if not self._blocks[key] and key not in self._entered:
                self._entered[key] = self._share()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Inside the block this process uses the store: for one that does many jobs, and lives on between them."""
        handle = self._share()
        try:
            with self._inside():
                yield
        finally:
            unlock(handle)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside the block no other process uses the store; one that wants to waits.

        Raises:
            InputError: some do; which.
        """
        with locked_at_once(self._path, _in_use), self._inside():
            yield

    @contextmanager
    def _inside(self) -> Iterator[None]:
        key = os.getpid(), self._path
        with self._guard:
            self._blocks[key] += 1
        try:
            yield
        finally:
            with self._guard:
                self._blocks[key] -= 1

    def _share(self) -> int:
        return share(self._path, lambda _: _waiting())


def _in_use(path: Path) -> InputError:
    users = holders(path) or ["a process of another user or machine"]
    others = [f"{len(users) - SHOWN_USERS} more"] if len(users) > SHOWN_USERS else []
    shown = ", ".join([*users[:SHOWN_USERS], *others])
    return InputError(f"the store is in use by {shown}; nothing is removed, run this again when they have ended")


def _waiting() -> Callable[[], None]:
    update = current().start("waiting for the garbage collection of the store", 1)
    return lambda: update(1)
