"""Tasks of Prefect's runners that stay with this process for as long as it has work for them."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from multiprocessing.connection import wait
from typing import Any

from prefect import Task, flow
from prefect.futures import as_completed
from prefect.settings import PREFECT_API_URL

from pruning_core.errors import ComputationError, InputError
from pruning_core.settings.compute import Workers
from tasks.orchestration import temporary_servers
from tasks.parallel.task_runners import task_runner


class Here:
    """What only this process does. Workers are sent the flow that holds it, and get it empty.

    They could not read all that it needs: threads, and methods of plugins, known where a workspace was opened.
    """

    def __init__(self, work: Callable[[], None] | None = None) -> None:
        self.work = work

    def __reduce__(self) -> tuple[type["Here"], tuple[()]]:
        return Here, ()


@cache
def end_with_parent() -> None:
    """In a process of a pool: end once the process that began it is gone, which kill -9 does not let it tell.

    Otherwise it would wait for its next task for ever, with all that it has in memory.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Staying:
    """One task per call, on as many workers, in a flow of its own beside what this process does."""

    def __init__(self, name: str, workers: Workers, task: Task, calls: list[tuple[Any, ...]]) -> None:
        """Start them.

        Args:
            name: of the flow.
            task: ends when this process tells it to; what it returns is not looked at.
            calls: the task's arguments, one tuple per worker.

        Raises:
            InputError: Dask or Ray is not installed.
        """
        self._failed: list[BaseException] = []
        here = Here(lambda: self._hold(task, calls))

        @flow(name=name, task_runner=task_runner(workers), persist_result=False)
        def holding() -> None:
            here.work()

        # Settings are those of a thread.
        url = PREFECT_API_URL.value()

        def run() -> None:
            with temporary_servers.shared(url):
                holding()

        self._ended: Future = ThreadPoolExecutor(1, name).submit(run)

    def _hold(self, task: Task, calls: list[tuple[Any, ...]]) -> None:
        for future in as_completed([task.submit(*arguments) for arguments in calls]):
            found = future.result(raise_on_failure=False)
            if isinstance(found, BaseException):
                self._failed.append(found)

    def lost(self) -> BaseException | None:
        """Why the first of them that failed did, or their flow; None where all are at work."""
        if not self._failed and self._ended.done():
            return self._ended.exception() or RuntimeError("it was stopped")
        return self._failed[0] if self._failed else None

    def part(self) -> None:
        """Wait until all are gone, whatever they ended with."""
        self._ended.exception()

    def wait_until(self, done: Callable[[], bool], poll: float, setting: str) -> None:
        """Wait for something that they do.

        Args:
            done: whether it is done.
            poll: seconds between two looks.
            setting: which workers they are, in params.yaml.

        Raises:
            InputError, ComputationError: as one of them failed, in a sentence.
        """
        while not done():
            if error := self.lost():
                if isinstance(error, InputError | ComputationError):
                    raise error
                text = str(error).strip() or repr(error)
                raise ComputationError(f"a worker of {setting} ended: {type(error).__name__}: {text}") from error
            time.sleep(poll)
