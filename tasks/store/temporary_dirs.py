"""Temporary folders for artifacts being written; those of a dead writer are removed."""

import contextlib
import errno
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from pruning_core.errors import InputError
from tasks.store.locks import FileLock, is_locked, locked

FULL = (errno.ENOSPC, errno.EDQUOT)
TOO_LARGE = errno.EFBIG


class Builds:
    """The folders below `root`, each with a NAME.owner file that is locked for as long as its writer lives.

    A lock tells a dead writer from a live one for certain; a process id may be in use again.

    Args:
        gate: lock file that is held for an instant by whoever begins or removes one.
    """

    def __init__(self, root: Path, gate: Path) -> None:
        self.root = root
        self._gate = gate

    @contextlib.contextmanager
    def begin(self, name: str) -> Iterator[Path]:
        """A new folder, gone afterwards unless it was renamed away; those of dead writers go first."""
        build = self.root / f"{name}.{secrets.token_hex(8)}"
        owner = FileLock(build.with_name(f"{build.name}.owner"))
        # One gate for beginning and removing: no removal sees an owner file before it is locked.
        with locked(self._gate):
            self._remove_abandoned()
            owner.acquire()
            build.mkdir()
        try:
            yield build
        finally:
            # What cannot be removed now goes with the next removal; the error under way matters more.
            shutil.rmtree(build, ignore_errors=True)
            owner.path.unlink(missing_ok=True)
            owner.release()

    def remove_abandoned(self) -> None:
        """Remove what killed processes left; what live ones are writing stays."""
        with locked(self._gate):
            self._remove_abandoned()

    def abandoned(self) -> list[Path]:
        """The folders that killed processes left."""
        with locked(self._gate):
            return [self.root / name for name in self._names() if not is_locked(self.root / f"{name}.owner")]

    def _names(self) -> list[str]:
        return sorted({path.name.removesuffix(".owner") for path in self.root.glob("*")})

    def _remove_abandoned(self) -> None:
        for name in self._names():
            owner = FileLock(self.root / f"{name}.owner")
            if owner.acquire(timeout=0):
                shutil.rmtree(self.root / name, ignore_errors=True)
                owner.path.unlink()
                owner.release()


@contextlib.contextmanager
def explain_full_disk(place: Path) -> Iterator[None]:
    """Turn a full disk, quota or limit of size inside the block into an InputError that names `place`; others pass."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        sentence = full_disk(error, place)
        if sentence is None:
            raise
        raise InputError(sentence) from error


def full_disk(error: BaseException, place: Path) -> str | None:
    """What to say of an error that comes of a full disk, a quota or a limit of size; None of other errors."""
    number = getattr(error, "errno", None)
    if number == TOO_LARGE:
        return (
            f"a file below {place} would be larger than the limit on file sizes (ulimit -f); raise it and run again, "
            "finished steps are kept"
        )
    # safetensors writes in Rust and reports the system's error only as text.
    if number in FULL or (isinstance(error, SafetensorError) and "No space left on device" in str(error)):
        return f"the disk that holds {place} is full; free some space and run again, finished steps are kept"
    return None
