"""The log of unusual events in a store, such as altered results."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from tasks.store.canonical_json import canonical

Event = dict[str, str]


class Events(list[Event]):
    """The events that this object saw, in order; each is also a line of the shared file at `path`."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def record(self, event: str, **details: str) -> None:
        """Add {"event": event, "time": UTC in ISO 8601, **details}."""
        entry = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **details}
        self.append(entry)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write to a file opened for appending: lines of processes that write at once do not mix.
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, (canonical(entry) + "\n").encode())
        finally:
            os.close(handle)

    def of_all_processes(self, since: str = "") -> list[Event]:
        """The events of all processes and drivers, from the time `since` (as in an event's "time") on."""
        if not self.path.is_file():
            return []
        events = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [event for event in events if event["time"] >= since]
