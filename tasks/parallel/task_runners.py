"""Prefect's task runners for the workers of the settings: threads, processes, Dask or Ray."""

import logging
import os

from prefect.task_runners import TaskRunner

from pruning_core.errors import InputError
from pruning_core.settings.compute import Workers


def task_runner(workers: Workers) -> TaskRunner:
    """Prefect's runner for these workers.

    Raises:
        InputError: Dask or Ray is not installed.
    """
    return _RUNNERS[workers.name](workers)


def _threads(workers: Workers) -> TaskRunner:
    from prefect.task_runners import ThreadPoolTaskRunner

    return ThreadPoolTaskRunner(max_workers=workers.number)


def _processes(workers: Workers) -> TaskRunner:
    from prefect.task_runners import ProcessPoolTaskRunner

    return ProcessPoolTaskRunner(max_workers=workers.number)


def _dask(workers: Workers) -> TaskRunner:
    try:
        from prefect_dask import DaskTaskRunner
    except ImportError:
        raise missing("dask") from None
    # It would tell, between the steps, of every worker that comes and goes.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    if workers.address:
        return DaskTaskRunner(address=workers.address)
    settings = {"n_workers": workers.number, "threads_per_worker": 1, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=settings)


def _ray(workers: Workers) -> TaskRunner:
    quiet_ray()
    try:
        from prefect_ray import RayTaskRunner
    except ImportError:
        raise missing("ray") from None
    settings = {} if workers.address else {"num_cpus": workers.number, "include_dashboard": False}
    return RayTaskRunner(address=workers.address, init_kwargs=settings)


_RUNNERS = {"threads": _threads, "processes": _processes, "dask": _dask, "ray": _ray}


def missing(name: str) -> InputError:
    """The error for workers whose packages are not installed."""
    return InputError(f"workers {name} need packages that are not installed: pip install 'espalier[{name}]'")


def quiet_ray() -> None:
    """Turn off Ray's usage statistics; to be called before it is imported."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
