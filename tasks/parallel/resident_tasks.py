"""Prefect tasks that run for as long as this process has work for them."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import cache
from multiprocessing import connection
from queue import SimpleQueue
from typing import Any

from prefect import Task, flow
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL

from pruning_core.errors import ComputationError, InputError
from pruning_core.settings.compute import Workers
from tasks.orchestration import temporary_servers
from tasks.parallel.task_runners import task_runner

LOOK_SECONDS = 0.5
"""Between two looks at whether all workers are there."""


class LocalWork:
    """Work that only this process does: workers are sent the flow that holds it, and get it empty.

    They could not read all that it needs: threads, and methods of plugins, known where a workspace was opened.
    """

    def __init__(self, work: Callable[[], None] | None = None) -> None:
        self.work = work

    def __reduce__(self) -> tuple[type["LocalWork"], tuple[()]]:
        return LocalWork, ()


@cache
def end_with_parent() -> None:
    """In a process of a pool: end once the parent process is gone, kill -9 included.

    Otherwise it would wait for its next task for ever, with all that it has in memory.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class ResidentTasks:
    """One Prefect task per call, on as many workers, in a flow of its own in the background."""

    def __init__(
        self,
        name: str,
        workers: Workers,
        task: Task,
        calls: list[tuple[Any, ...]],
        lost: Callable[[], str | None],
    ) -> None:
        """Start them.

        Args:
            name: of the flow.
            task: ends when this process tells it to; what it returns is not looked at.
            calls: the task's arguments, one tuple per worker.
            lost: what became of a worker that is gone, of which its runner may know nothing; None where all are there.

        Raises:
            InputError: Dask or Ray is not installed.
        """
        self._failed: list[BaseException] = []
        self._lost = lost
        self._done: SimpleQueue[PrefectFuture | None] = SimpleQueue()
        here = LocalWork(lambda: self._hold(task, calls))

        @flow(name=name, task_runner=task_runner(workers), persist_result=False)
        def holding() -> None:
            here.work()

        # Settings are those of a thread.
        url = PREFECT_API_URL.value()

        def run() -> None:
            with temporary_servers.share_server(url):
                holding()

        self._ended: Future = ThreadPoolExecutor(1, name).submit(run)

    def _hold(self, task: Task, calls: list[tuple[Any, ...]]) -> None:
        futures = [task.submit(*arguments) for arguments in calls]
        for future in futures:
            future.add_done_callback(self._done.put)
        with ExitStack() as stack:
            # What the runner itself raises is told before the flow ends: that waits for all workers, which wait for
            # this process to tell them that nothing comes.
            stack.push(lambda kind, error, trace: error and self._failed.append(error))
            for _ in futures:
                future = self._done.get()
                if future is None:
                    return
                result = future.result(raise_on_failure=False)
                if isinstance(result, BaseException):
                    self._failed.append(result)

    def part(self) -> None:
        """Wait until all have ended, with or without an error; a lost one is not waited for."""
        while not self._ended.done():
            if self._lost() is not None:
                # The flow ends, and with it the runner, which ends the others.
                self._done.put(None)
            wait([self._ended], LOOK_SECONDS)

    def wait_until(self, done: Callable[[], bool], poll: float, setting: str) -> None:
        """Wait for something that they do.

        Args:
            done: whether it is done.
            poll: seconds between two looks.
            setting: which workers they are, in params.yaml.

        Raises:
            InputError, ComputationError: as one of them failed, in a sentence.
        """
        looked = time.monotonic()
        while not done():
            if error := self._failure():
                if isinstance(error, InputError | ComputationError):
                    raise error
                text = str(error).strip() or repr(error)
                raise ComputationError(f"a worker of {setting} ended: {type(error).__name__}: {text}") from error
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                if sentence := self._lost():
                    raise ComputationError(f"a worker of {setting} ended: {sentence}")
            time.sleep(poll)

    def _failure(self) -> BaseException | None:
        """The first error of a Prefect task, or of their flow; None where there is none."""
        if not self._failed and self._ended.done():
            return self._ended.exception() or RuntimeError("it was stopped")
        return self._failed[0] if self._failed else None
