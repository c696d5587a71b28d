"""Progress of steps. Silent unless a driver (the command line) reports to a sink."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Protocol

from pruning_core.progress import Progress


class Sink(Protocol):
    """What shows progress: a bar for people, lines for a log."""

    def start(self, label: str, total: int) -> Callable[[int], None]:
        """Begin `label`, which has `total` units of work; returns update(done), and done == total ends it."""
        ...


class Silence:
    """Shows nothing."""

    def start(self, label: str, total: int) -> Callable[[int], None]:
        """An update that does nothing."""
        return lambda done: None


_SINK: ContextVar[Sink] = ContextVar("progress_sink", default=Silence())  # noqa: B039 - Silence has no state


def current() -> Sink:
    """The sink of the innermost `reporting` block, or silence."""
    return _SINK.get()


@contextlib.contextmanager
def reporting(sink: Sink) -> Iterator[None]:
    """Send progress to `sink` inside the block (and in threads given a copy of its context)."""
    token = _SINK.set(sink)
    try:
        yield
    finally:
        _SINK.reset(token)


def progress(label: str) -> Progress:
    """A `progress(done, total)` for a function of the core that shows up as `label` in the current sink.

    The bar begins at the first call, which is when the total is known; a new total, or a call after the
    last unit, begins a new bar.
    """
    sink = current()
    update: Callable[[int], None] | None = None
    bar_total = 0

    def report(done: int, total: int) -> None:
        nonlocal update, bar_total
        if update is None or total != bar_total:
            update, bar_total = sink.start(label, total), total
        update(done)
        if done >= total:
            # That bar is gone.
            update = None

    return report
