"""Run pieces of work in parallel on threads, processes or a cluster; only JSON and paths are sent."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from pruning_core.settings.compute import Workers
from tasks.parallel.submit import Submit


@contextlib.contextmanager
def workers(settings: Workers) -> Iterator[Submit]:
    """The workers of the settings, stopped after the block; torch's number of threads is restored.

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
            from tasks.parallel.prefect_pool import worker_processes

            with worker_processes(settings) as submit:
                yield submit
    finally:
        torch.set_num_threads(threads)
