"""Where pieces of work run side by side: threads, processes, or a cluster; what travels is JSON and paths."""

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch

from pruning_core.compute import Workers
from pruning_core.errors import InputError


class Future(Protocol):
    """A result that comes."""

    def result(self) -> Any:
        """Wait for it; the exception of the work is raised."""
        ...


class Submit(Protocol):
    """submit(function, *arguments) -> Future; the function is found by its name where it runs."""

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Future: ...


@contextlib.contextmanager
def workers(settings: Workers) -> Iterator[Submit]:
    """The workers of the settings, gone after the block; torch's number of threads is then what it was.

    Raises:
        InputError: Dask or Ray is not installed.
    """
    threads = torch.get_num_threads()
    try:
        if settings.name == "threads":
            with ThreadPoolExecutor(settings.number, "search") as pool:
                yield pool.submit
        else:
            # It imports Prefect, which takes seconds.
            from tasks.search_tasks import crowd

            with crowd(settings) as submit:
                yield submit
    finally:
        torch.set_num_threads(threads)


def missing(name: str) -> InputError:
    """What is told where the packages of these workers are not installed."""
    return InputError(f"workers {name} need packages that are not installed: pip install 'espalier[{name}]'")


def quiet_ray() -> None:
    """Keep Ray from telling its makers how it is used; to be called before it is imported."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
