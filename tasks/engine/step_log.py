"""A driver that records for every step whether it was computed or cached, and how long it took."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from tasks.engine.step import Call, Context, Driver
from tasks.store.artifact import Artifact

CACHED = "Cached"
COMPUTED = "Completed"

Listener = Callable[[dict[str, Any]], None]
_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("step_listeners", default=())


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Inside the block, `listener` is called too with the record of every step as it is done."""
    token = _LISTENERS.set((*_LISTENERS.get(), listener))
    try:
        yield
    finally:
        _LISTENERS.reset(token)


@dataclass
class StepLog:
    """Runs steps by another driver and records them; the same call again in one run is answered from memory.

    Args:
        driver: does the work.
    """

    driver: Driver
    records: list[dict[str, Any]] = field(default_factory=list)
    _artifacts: dict[str | None, Artifact] = field(default_factory=dict)
    _labels_elsewhere: set[str] = field(default_factory=set)

    def __call__(self, context: Context, call: Call) -> Artifact:
        """Run the step once, and record it."""
        if call.key in self._artifacts:
            return self._artifacts[call.key]
        begun = time.monotonic()
        artifact: Artifact = self.driver(context, call)
        self._artifacts[call.key] = artifact
        if artifact.hit and call.label in self._labels_elsewhere:
            return artifact
        self._note(
            {
                "name": call.step.name,
                "label": call.label,
                "state": CACHED if artifact.hit else COMPUTED,
                "seconds": round(time.monotonic() - begun, 3),
            }
        )
        return artifact

    def add(self, records: list[dict[str, Any]]) -> None:
        """Add the records of another process; finding its results here is not recorded again."""
        for record in records:
            if record["state"] == COMPUTED or record["label"] not in {noted["label"] for noted in self.records}:
                self._note(record)
        self._labels_elsewhere |= {record["label"] for record in records}

    def _note(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        for listener in _LISTENERS.get():
            listener(record)

    def about(self, name: str) -> list[dict[str, Any]]:
        """The records whose label begins with a variant's name."""
        return [record for record in self.records if record["label"].split(" ")[0] == name]
