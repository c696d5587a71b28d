"""`espalier up` and `espalier down`: the MLflow and Prefect servers of a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.console.progress_bars import show_bars
from flows.servers import ui_servers


def start_servers(json_: bool) -> dict[str, dict[str, Any]]:
    """Start both; {server: {"open": its address, ...}}."""
    with show_bars(json_) as (_, bars):
        done = bars.waiting("starting the MLflow and Prefect servers")
        state = ui_servers.start(Path.cwd())
        done()
    return state


def print_started(state: dict[str, dict[str, Any]], say: Callable[[str], None]) -> None:
    """Print the addresses of the servers."""
    for name, service in state.items():
        say(f"{name:10} {service['open']}")
    say("stop them with: espalier down")


def stop_servers() -> dict[str, bool]:
    """Stop both; {server: whether it was running}."""
    return ui_servers.stop(Path.cwd())


def print_stopped(was_running: dict[str, bool], say: Callable[[str], None]) -> None:
    """Print which servers were stopped."""
    for name, running in was_running.items():
        say(f"{name:10} {'stopped' if running else 'was not running'}")
