"""Locks that a killed process cannot leave behind: flock on a file that is never unlinked.

The kernel frees the lock when the last handle closes, kill -9 included. Unlinking the file would let one
process lock the old file and another the new one, so the (tiny) files stay. Every lock opens its own handle:
two threads of one process exclude each other as two processes do. flock is not promised between hosts on NFS.
"""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_SECONDS = 0.05

OnWait = Callable[[str], Callable[[], None]]
"""Called as on_wait(holder) when the lock is taken; what it returns is called when the wait is over."""


class FileLock:
    """An exclusive lock on one file; one object is held at most once at a time."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._handle is not None

    def acquire(self, timeout: float | None = None, on_wait: OnWait | None = None) -> bool:
        """Wait at most `timeout` seconds (None: for ever, 0: not at all); True when the lock is held.

        Raises:
            RuntimeError: this object holds the lock already.
        """
        if self.held:
            raise RuntimeError(f"{self.path} is already locked by this object")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        taken = False
        try:
            taken = _try(handle) or _wait(handle, timeout, on_wait)
        finally:
            # Also on KeyboardInterrupt in the middle of the wait.
            if not taken:
                os.close(handle)
        if taken:
            self._handle = handle
            # The name is for people; a disk too full to hold it does not spoil the lock.
            with contextlib.suppress(OSError):
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        return taken

    def release(self) -> None:
        """Free the lock; no effect when it is not held."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            unlock(handle)


@contextlib.contextmanager
def locked(path: Path, on_wait: OnWait | None = None) -> Iterator[None]:
    """Hold the lock on `path` inside the block, however the block ends."""
    lock = FileLock(path)
    lock.acquire(on_wait=on_wait)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def locked_at_once(path: Path, refusal: Callable[[Path], Exception]) -> Iterator[None]:
    """Hold the lock on `path` inside the block, or raise `refusal(path)` where somebody else has it."""
    lock = FileLock(path)
    if not lock.acquire(timeout=0):
        raise refusal(path)
    try:
        yield
    finally:
        lock.release()


def share(path: Path, on_wait: OnWait | None = None) -> int:
    """Wait until nobody holds the lock on `path` alone, and share it with others; returns what `unlock` frees."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    taken = False
    try:
        taken = _try(handle, fcntl.LOCK_SH) or _wait(handle, None, on_wait, fcntl.LOCK_SH)
    finally:
        if not taken:
            os.close(handle)
    return handle


def unlock(handle: int) -> None:
    """Free the lock of an open file."""
    # Unlocked, not only closed: a forked child's copy of the handle would keep the lock.
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether anyone, this process included, holds the lock on `path` right now."""
    probe = FileLock(path)
    free = probe.acquire(timeout=0)
    probe.release()
    return not free


def _try(handle: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(handle: int, timeout: float | None, on_wait: OnWait | None, kind: int = fcntl.LOCK_EX) -> bool:
    if timeout == 0:
        return False
    finished = on_wait(os.pread(handle, 200, 0).decode(errors="replace")) if on_wait else None
    try:
        if timeout is None:
            fcntl.flock(handle, kind)
            return True
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            if _try(handle, kind):
                return True
        return False
    finally:
        if finished:
            finished()
