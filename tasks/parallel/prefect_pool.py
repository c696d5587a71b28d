"""Workers of a search as long-running Prefect tasks, which take their work from a TCP store of this process.

Work and results travel as JSON: a Prefect task run per piece of work would cost more than most pieces do.
"""

import contextlib
import importlib
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from torch.distributed import TCPStore

from pruning_core.settings.compute import Workers
from tasks.parallel.rendezvous import Rendezvous, WorkerWatch
from tasks.parallel.resident_tasks import ResidentTasks, end_with_parent
from tasks.parallel.submit import Future, Submit

POLL_SECONDS = 0.002
PATIENCE = timedelta(days=7)
"""How long a worker waits for the next piece."""
TAKEN = "taken"
STOP = "null"


@task(name="search worker", task_run_name="search worker {number}", cache_policy=NO_CACHE, persist_result=False)
def work(rendezvous: Rendezvous, number: int) -> None:
    """The Prefect task of a worker: do pieces of work that no other worker has taken, until there are no more."""
    end_with_parent()
    with rendezvous.enter() as store:
        while True:
            piece = store.add(TAKEN, 1) - 1
            store.wait([_request_key(piece)], PATIENCE)
            request = json.loads(store.get(_request_key(piece)))
            if request is None:
                return
            function = getattr(importlib.import_module(request["module"]), request["function"])
            store.set(_answer_key(piece), json.dumps(function(*request["arguments"])))


@contextlib.contextmanager
def worker_processes(settings: Workers) -> Iterator[Submit]:
    """Start workers that are processes, or of Dask or Ray, and stop them when the block ends.

    Raises:
        InputError: Dask or Ray is not installed.
        ComputationError: of a result, where a worker ended, killed or with an error.
    """
    rendezvous, store = Rendezvous.open(here=settings.address is None)
    calls = [(rendezvous, number) for number in range(settings.number)]
    held = ResidentTasks("search workers", settings, work, calls, WorkerWatch(rendezvous, store).lost)
    pieces = count()

    def submit(function: Callable[..., Any], *arguments: Any) -> Future:
        piece = next(pieces)
        request = {"module": function.__module__, "function": function.__qualname__, "arguments": arguments}
        store.set(_request_key(piece), json.dumps(request))
        return _Piece(store, held, piece)

    try:
        yield submit
    finally:
        # What was asked for and not taken is not wanted any more: each worker gets the end next. More may be taken than
        # there are, where one was lost with the piece that it waited for.
        end, taken = next(pieces), store.add(TAKEN, 0)
        for piece in range(min(taken, end), max(taken, end) + settings.number):
            store.set(_request_key(piece), STOP)
        held.part()


class _Piece:
    """The future of a piece of work."""

    def __init__(self, store: TCPStore, held: ResidentTasks, number: int) -> None:
        self.store, self.held, self.number = store, held, number

    def result(self) -> Any:
        key_of_answer = _answer_key(self.number)
        self.held.wait_until(partial(self.store.check, [key_of_answer]), POLL_SECONDS, "compute.workers")
        answer = json.loads(self.store.get(key_of_answer))
        for key in (key_of_answer, _request_key(self.number)):
            self.store.delete_key(key)
        return answer


def _request_key(piece: int) -> str:
    return f"asked {piece}"


def _answer_key(piece: int) -> str:
    return f"answered {piece}"
