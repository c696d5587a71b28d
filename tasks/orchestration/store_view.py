"""Prefect's cache as a view of the store: Prefect asks, the store decides."""

import dataclasses
import threading
from pathlib import Path
from typing import Any, ClassVar

import anyio.to_thread
from prefect.cache_policies import CachePolicy
from prefect.filesystems import WritableFileSystem
from prefect.locking.protocol import LockManager
from prefect.results import ResultRecordMetadata
from prefect.serializers import JSONSerializer

from pruning_core.checkpoint.durable_files import replace_bytes
from tasks.store.locks import FileLock, is_locked
from tasks.store.store import Store


@dataclasses.dataclass
class KeyOfCall(CachePolicy):
    """The key of Prefect's record is the key of the call."""

    def compute_key(self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any) -> str:
        """The key of the call, computed before: an exception raised here would only be a line in Prefect's log."""
        return inputs["call"].key


class StoreView(WritableFileSystem):
    """Where Prefect looks up records: one exists while the store holds the intact artifact of its key.

    So an artifact that a DVC stage computed counts as cached in a flow, and one that was deleted, altered or
    moved with its workspace is never served from an old record.
    """

    _block_type_name = "Espalier store view"
    _block_type_slug = "espalier-store-view"

    store_root: str
    records: str

    # Prefect passes _sync, and takes the TypeError of a signature without it for "not cached".
    def read_path(self, path: str, _sync: bool | None = None) -> bytes:
        """Metadata of the record of key `path`; its result, the reference, is written where that says.

        Raises:
            FileNotFoundError: there is no intact artifact of this key. Prefect takes it for "not cached".
        """
        artifact = Store(Path(self.store_root)).find(Path(path).name)
        if artifact is None:
            raise FileNotFoundError(f"no intact artifact {path} in {self.store_root}")
        record, serializer = Path(self.records) / artifact.key, JSONSerializer()
        content = serializer.dumps(artifact.reference())
        if not record.is_file() or record.read_bytes() != content:
            replace_bytes(record, content)
        return ResultRecordMetadata(storage_key=str(record), serializer=serializer).dump_bytes()

    async def aread_path(self, path: str) -> bytes:
        """As `read_path`."""
        return await anyio.to_thread.run_sync(self.read_path, path)

    def write_path(self, path: str, content: bytes, _sync: bool | None = None) -> None:
        """Nothing: the store has published the artifact, and that is the record."""

    async def awrite_path(self, path: str, content: bytes) -> None:
        """As `write_path`."""


class FlockLockManager(LockManager):
    """Prefect's locks on flock files. Its own file locks stay behind after kill -9 and hang the next run.

    The state is the class's: a manager is copied, and sent to workers, with its folder alone.
    """

    _held: ClassVar[dict[tuple[str, str], tuple[FileLock, str]]] = {}
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)

    def _path(self, key: str) -> Path:
        return Path(self.directory) / f"{key}.lock"

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """True when `holder` has the lock of `key` within `acquire_timeout` seconds (None: for ever)."""
        if self.is_lock_holder(key, holder):
            return True
        lock = FileLock(self._path(key))
        if not lock.acquire(acquire_timeout):
            return False
        with self._guard:
            self._held[self.directory, key] = lock, holder
        return True

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """As `acquire_lock`."""
        return await anyio.to_thread.run_sync(self.acquire_lock, key, holder, acquire_timeout)

    def release_lock(self, key: str, holder: str) -> None:
        """Free the lock; ValueError when `holder` does not hold it."""
        with self._guard:
            lock, owner = self._held.get((self.directory, key), (None, None))
            if owner != holder:
                raise ValueError(f"{holder} does not hold the lock of {key}")
            del self._held[self.directory, key]
        lock.release()

    def is_locked(self, key: str) -> bool:
        """Whether anyone holds the lock of `key`."""
        return is_locked(self._path(key))

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether `holder` of this process holds the lock of `key`."""
        return self._held.get((self.directory, key), (None, None))[1] == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """True when the lock of `key` was free within `timeout` seconds."""
        lock = FileLock(self._path(key))
        free = lock.acquire(timeout)
        lock.release()
        return free

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """As `wait_for_lock`."""
        return await anyio.to_thread.run_sync(self.wait_for_lock, key, timeout)
