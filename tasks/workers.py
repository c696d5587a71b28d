"""Where pieces of work run side by side: threads, processes, or a cluster; what travels is JSON and paths."""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
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
        with _KINDS[settings.name](settings) as submit:
            yield submit
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _threads(settings: Workers) -> Iterator[Submit]:
    with ThreadPoolExecutor(settings.number, "search") as pool:
        yield pool.submit


@contextlib.contextmanager
def _processes(settings: Workers) -> Iterator[Submit]:
    # A forked copy of a process whose libraries run threads may hang.
    with ProcessPoolExecutor(settings.number, multiprocessing.get_context("spawn")) as pool:
        yield pool.submit


@contextlib.contextmanager
def _dask(settings: Workers) -> Iterator[Submit]:
    try:
        from distributed import Client
    except ImportError:
        raise missing("dask") from None
    own = {"n_workers": settings.number, "threads_per_worker": 1, "dashboard_address": None}
    with Client(settings.address, **({} if settings.address else own)) as client, client.get_executor() as pool:
        yield pool.submit


@contextlib.contextmanager
def _ray(settings: Workers) -> Iterator[Submit]:
    quiet_ray()
    try:
        import ray
    except ImportError:
        raise missing("ray") from None
    own = {"num_cpus": settings.number, "include_dashboard": False}
    ray.init(address=settings.address, **({} if settings.address else own))
    try:
        yield lambda function, *arguments: ray.remote(function).remote(*arguments).future()
    finally:
        ray.shutdown()


def missing(name: str) -> InputError:
    """What is told where the packages of these workers are not installed."""
    return InputError(f"workers {name} need packages that are not installed: pip install 'espalier[{name}]'")


def quiet_ray() -> None:
    """Keep Ray from telling its makers how it is used; to be called before it is imported."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


_KINDS = {"threads": _threads, "processes": _processes, "dask": _dask, "ray": _ray}
