"""The servers of the two UIs: Prefect's (flows) and MLflow's (variants), on 127.0.0.1 only.

They run apart from the command that started them; `.espalier/services/` holds what is needed to find them
again: process, start time, port and log.
"""

import json
import os
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.servers.server_process import ServiceProcess, launch, wait_until
from pruning_core.errors import ComputationError, InputError
from tasks.orchestration import prefect_settings
from tasks.store.canonical_json import write_json
from tasks.store.locks import locked
from tasks.tracking import connection, run_index

HOST = "127.0.0.1"
# Prefect migrates a new database first: half a minute on a busy machine.
PORTS_LOCK = Path(tempfile.gettempdir()) / f"espalier-ports-{os.getuid()}.lock"
"""One for all folders of a user on this machine."""
START_SECONDS = 180.0
HEALTH_SECONDS = 3.0


@dataclass(frozen=True)
class Service:
    """How one server is started, reached and asked for its health."""

    port: int
    health: str
    arguments: Callable[[Path, int], list[str]]
    environment: Callable[[Path, int], dict[str, str]]


def _prefect_arguments(workspace: Path, port: int) -> list[str]:
    return ["prefect", "server", "start", "--host", HOST, "--port", str(port)]


def _prefect_environment(workspace: Path, port: int) -> dict[str, str]:
    home = workspace / ".espalier" / "prefect"
    return {
        **prefect_settings.QUIET,
        "PREFECT_HOME": str(home),
        # By default the pages are written into the installed package, where two servers meet.
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
        "PREFECT_UI_API_URL": f"http://{HOST}:{port}/api",
        # The V2 pages ask amplitude.com for settings even with analytics switched off; V1 asks nobody.
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
    }


def _mlflow_arguments(workspace: Path, port: int) -> list[str]:
    store = ["--backend-store-uri", connection.store_uri(workspace)]
    artifacts = ["--default-artifact-root", connection.artifact_root(workspace), "--no-serve-artifacts"]
    return ["mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1", *store, *artifacts]


def _mlflow_environment(workspace: Path, port: int) -> dict[str, str]:
    # Nothing here uses MLflow's job runner, which would be four processes more.
    return {**connection.QUIET, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


SERVICES = {
    "prefect": Service(4200, "/api/health", _prefect_arguments, _prefect_environment),
    "mlflow": Service(5000, "/health", _mlflow_arguments, _mlflow_environment),
}


def start(workspace: Path, names: Iterable[str] = tuple(SERVICES)) -> dict[str, dict[str, Any]]:
    """Start the servers that do not run yet and wait until all of them answer.

    Returns:
        As `status`, of the named servers.

    Raises:
        ComputationError: one did not come up; those started here are stopped again, the sentence names its log.
        InputError: there is no server of that name.
    """
    workspace, names = Path(workspace).absolute(), _check_names(names)
    with locked(_folder(workspace) / "services.lock"):
        running = {name: _read(workspace, name) for name in names}
        new = [name for name, process in running.items() if not (process and _healthy(name, process))]
        for name in new:
            _stop(workspace, name)
        if "mlflow" in new:
            # Made here, under the lock: a server and a flow that make the database at once break it.
            connection.prepare(workspace)
        if new:
            _start_new(workspace, new)
    return {name: facts for name, facts in status(workspace).items() if name in names}


def _start_new(workspace: Path, new: list[str]) -> None:
    # A port that is free when it is looked for has to stay free until the server listens there: of two folders that
    # start servers at once, one would take the other's server for its own, and have none.
    with locked(PORTS_LOCK):
        started = {name: _launch(workspace, name) for name in new}
        for name, process in started.items():
            healthy = wait_until(lambda n=name, p=process: not p.alive() or _healthy(n, p), START_SECONDS)
            if not (healthy and process.alive()):
                for other in started:
                    _stop(workspace, other)
                raise ComputationError(f"the {name} server did not start; its log is {_log(workspace, name)}")


def status(workspace: Path) -> dict[str, dict[str, Any]]:
    """Name -> {"running", "healthy", "url", "open", "pid", "port", "log"}; None where it does not run.

    `open` is the page to look at: for MLflow the table of the variants.
    """
    workspace = Path(workspace).absolute()
    return {name: _status(workspace, name) for name in SERVICES}


def stop(workspace: Path, names: Iterable[str] = tuple(SERVICES)) -> dict[str, bool]:
    """Stop the servers with everything that they started; name -> whether it was running.

    Raises:
        InputError: there is no server of that name.
    """
    workspace = Path(workspace).absolute()
    with locked(_folder(workspace) / "services.lock"):
        return {name: _stop(workspace, name) for name in _check_names(names)}


def api_url(workspace: Path) -> str | None:
    """The address for PREFECT_API_URL, only when this workspace's Prefect server answers."""
    process = _read(Path(workspace).absolute(), "prefect")
    return f"http://{HOST}:{process.port}/api" if process and _healthy("prefect", process) else None


def _status(workspace: Path, name: str) -> dict[str, Any]:
    process = _read(workspace, name)
    running = process is not None and process.alive()
    url = f"http://{HOST}:{process.port}" if running else None
    healthy = running and _healthy(name, process)
    return {
        "running": running,
        "healthy": healthy,
        "url": url,
        "open": url and url + (_compare_page(process) if healthy and name == "mlflow" else "/"),
        "pid": process.pid if running else None,
        "port": process.port if running else None,
        "log": str(_log(workspace, name)),
    }


def _launch(workspace: Path, name: str) -> ServiceProcess:
    service = SERVICES[name]
    port = _free_port(service.port)
    # The address of another server must not reach this one.
    inherited = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    environment = inherited | service.environment(workspace, port)
    process = launch(service.arguments(workspace, port), environment, _log(workspace, name), port)
    write_json(_file(workspace, name), process.facts())
    return process


def _stop(workspace: Path, name: str) -> bool:
    process = _read(workspace, name)
    stopped = process.stop() if process else False
    _file(workspace, name).unlink(missing_ok=True)
    return stopped


def _healthy(name: str, process: ServiceProcess) -> bool:
    """Whether the process lives and its server answers."""
    if not process.alive():
        return False
    return _answer(process, SERVICES[name].health) is not None


def _compare_page(process: ServiceProcess) -> str:
    """The path of MLflow's table of variants, sorted by perplexity; the server tells the experiment's id.

    Asking the database instead would take importing mlflow, which is seconds.
    """
    answer = _answer(process, f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={run_index.EXPERIMENT}")
    if answer is None:
        return "/"
    experiment = json.loads(answer)["experiment"]["experiment_id"]
    return f"/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={run_index.VIEW}"


def _answer(process: ServiceProcess, path: str) -> bytes | None:
    """The body of a server's answer; None if there is none or it is an error."""
    # A proxy from the environment must not be asked for an address of this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{HOST}:{process.port}{path}", timeout=HEALTH_SECONDS) as answer:
            return answer.read()
    except (urllib.error.URLError, OSError):
        return None


def _read(workspace: Path, name: str) -> ServiceProcess | None:
    try:
        return ServiceProcess(**json.loads(_file(workspace, name).read_text()))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError) as error:
        raise InputError(f"{_file(workspace, name)} is damaged; stop the server by hand and remove it") from error


def _free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            # As the servers do: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise ComputationError(f"no free port is left on {HOST}")


def _check_names(names: Iterable[str]) -> list[str]:
    names = list(dict.fromkeys(names))
    if unknown := [name for name in names if name not in SERVICES]:
        raise InputError(f"there is no server {unknown[0]!r}; choose from {', '.join(SERVICES)}")
    return names


def _folder(workspace: Path) -> Path:
    return workspace / ".espalier" / "services"


def _file(workspace: Path, name: str) -> Path:
    return _folder(workspace) / f"{name}.json"


def _log(workspace: Path, name: str) -> Path:
    return _folder(workspace) / f"{name}.log"
