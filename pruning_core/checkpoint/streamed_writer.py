"""Models written one tensor at a time, and how such a write goes on after it was killed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from pruning_core.checkpoint.shard_files import SHARD_BYTES, ShardFiles
from pruning_core.errors import InputError
from pruning_core.progress import Progress


class StreamedWriter:
    """Writes tensors as they come into shards of at most `max_shard_bytes`.

    Memory holds one shard. Until `close` the directory holds provisional files only, and the index gets its name last:
    an interrupted writer leaves nothing that could be taken for a model.

    Args:
        resume: go on from what an interrupted writer of the same model, with `resume` too, left in the directory:
            finished shards are kept, and of what they hold nothing is added again. Files are equal to those of a writer
            that was not interrupted where all is added in the same order.

    Raises:
        InputError: the directory already holds such files, of a writer that came to its end.
    """

    stem: ClassVar[str]
    index: ClassVar[str]
    content: ClassVar[str]
    """What a directory with such files holds, for people."""

    def __init__(self, directory: Path | str, max_shard_bytes: int = SHARD_BYTES, resume: bool = False) -> None:
        self.directory = Path(directory)
        self._shards = ShardFiles(self.directory, self.stem, self.index, max_shard_bytes, resume)
        if any(self.directory.glob(f"{self.stem}*.safetensors")) or (self.directory / self.index).exists():
            raise InputError(f"{self.directory} already holds {self.content}; choose an empty directory")

    def names(self) -> list[str]:
        """What was added, in order."""
        return list(self._shards.groups)

    def holds(self, name: str) -> bool:
        """Whether a tensor was added, here or by the writer that this one goes on from."""
        return name in self._shards.groups

    def add(self, name: str, *content: Any) -> None:
        """Take copies of what is written under a name."""
        raise NotImplementedError

    def close(self) -> list[Path]:
        """Finish the last shard, write the index and give all their final names; the files, the index last."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self._shards.abandon()


def write_streamed(
    names: Sequence[str], writer: StreamedWriter, make: Callable[[str], tuple[Any, ...]], progress: Progress
) -> None:
    """Add all tensors but those that an interrupted write left there, and close the writer.

    Args:
        names: all of them, in the order of every write.
        make: loads and encodes one; what `writer.add` takes behind its name.
        progress: called with (tensors done, tensors in all).

    Raises:
        InputError: what was left is of another model.
    """
    held = writer.names()
    if held != list(names[: len(held)]):
        raise InputError(f"{writer.directory} holds an unfinished write of another model; choose an empty directory")
    with writer:
        for done, name in enumerate(names, start=1):
            if not writer.holds(name):
                writer.add(name, *make(name))
            progress(done, len(names))
