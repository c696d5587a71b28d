"""Espalier commands as processes of their own, started as a person starts them."""

import multiprocessing
import multiprocessing.forkserver
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

BIN = Path(sys.executable).parent
# Importing these takes seconds, which a warm command does not pay.
PRELOADED = [
    *(
        "flows.cli",
        "flows.actions.inspect",
        "flows.actions.dvc_stage",
        "flows.console.tables",
        "flows.compress",
        "flows.scheduled",
    ),
    *("mlflow", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"),
    *("pruning_core.column_sweep.numba_kernel", "transformers.models.llama.modeling_llama"),
]


class Finished(NamedTuple):
    """What is left of a command; `code` is negative for the signal that ended it."""

    code: int
    out: str
    err: str


@dataclass
class Command:
    """A command under way, its output in files."""

    pid: int
    out: Path
    err: Path
    code: Callable[[float], int]

    def wait(self, seconds: float = 180) -> Finished:
        """Its end."""
        return Finished(self.code(seconds), self.out.read_text(), self.err.read_text())

    def signal_after(self, text: str, sign: int, seconds: float = 180) -> Finished:
        """Send a signal as soon as `text` is printed; its end."""
        deadline = time.monotonic() + seconds
        while text not in self.err.read_text():
            assert time.monotonic() < deadline, f"{text!r} was not printed:\n{self.err.read_text()}"
            time.sleep(0.005)
        os.kill(self.pid, sign)
        return self.wait(60)


def start(command: list[str], root: Path, output: Path, environment: dict[str, str]) -> Command:
    """The installed command."""
    out, err = output / "out.txt", output / "err.txt"
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]], cwd=root, env=environment, stdout=stdout, stderr=stderr
        )
    return Command(process.pid, out, err, lambda seconds: process.wait(timeout=seconds))


def start_warm(arguments: list[str], root: Path, output: Path) -> Command:
    """`espalier` as a fork of a process that has done nothing but import it."""
    out, err = output / "out.txt", output / "err.txt"
    out.touch()
    err.touch()
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_main, args=(arguments, str(root), str(out), str(err)))
    process.start()

    def code(seconds: float) -> int:
        process.join(seconds)
        assert process.exitcode is not None, f"{arguments} did not end:\n{err.read_text()}"
        return process.exitcode

    return Command(process.pid, out, err, code)


def preload(environment: dict[str, str]) -> None:
    """Start the process that warm commands are forked from, in that environment."""
    own = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(own)


def _main(arguments: list[str], root: str, out: str, err: str) -> None:
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY), descriptor)
    os.chdir(root)
    sys.argv = ["espalier", *arguments]
    from flows.cli import main

    main()
