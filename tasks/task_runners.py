"""Prefect's task runners for the workers of the settings: threads, processes, Dask or Ray."""

import logging

from prefect.task_runners import TaskRunner

from pruning_core.compute import Workers
from tasks.workers import missing, quiet_ray


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
    own = {"n_workers": workers.number, "threads_per_worker": 1, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=own)


def _ray(workers: Workers) -> TaskRunner:
    quiet_ray()
    try:
        from prefect_ray import RayTaskRunner
    except ImportError:
        raise missing("ray") from None
    own = {} if workers.address else {"num_cpus": workers.number, "include_dashboard": False}
    return RayTaskRunner(address=workers.address, init_kwargs=own)


_RUNNERS = {"threads": _threads, "processes": _processes, "dask": _dask, "ray": _ray}
