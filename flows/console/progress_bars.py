"""Progress bars for people."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from tasks.progress import reporting


class Bars:
    """A progress sink that draws one bar for each piece of work and removes it when the work is done."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._lock = threading.Lock()

    def start(self, label: str, total: int) -> Callable[[int], None]:
        """Begin a bar of `total` units."""
        bar = self._bars.add_task(label, total=total)

        def update(done: int) -> None:
            with self._lock:
                self._bars.update(bar, completed=done)
                if done >= total:
                    self._bars.remove_task(bar)

        return update

    def waiting(self, label: str) -> Callable[[], None]:
        """A bar for work of unknown length; call the result when it is over."""
        bar = self._bars.add_task(label, total=None)
        return lambda: self._bars.remove_task(bar)


@contextmanager
def show_bars(quiet: bool = False) -> Iterator[tuple[Console, Bars]]:
    """Show progress on standard error inside the block; yields the console that prints above the bars."""
    console = Console(file=sys.stderr, quiet=quiet)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        bars = Bars(progress)
        with reporting(bars):
            yield console, bars
