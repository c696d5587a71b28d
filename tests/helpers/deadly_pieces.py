"""Pieces of work that take their worker with them, as kill -9 would."""

import os
import signal
import threading
import time

import torch


def die() -> None:
    """At once."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_later(seconds: float) -> int:
    """So many seconds after the answer, which is the worker's process id."""
    timer = threading.Timer(seconds, die)
    timer.daemon = True
    timer.start()
    return os.getpid()


def die_at_work(seconds: float) -> None:
    """In the middle of products of matrices."""
    die_later(seconds)
    matrix = torch.eye(512)
    while True:
        matrix = matrix @ matrix


def die_while_reporting() -> dict[str, int]:
    """As the result is written."""
    return _Deadly(answer=1)


class _Deadly(dict):
    def items(self):
        die()


def meet(seconds: float) -> int:
    """The worker's process id, after a while in which others take their pieces."""
    time.sleep(seconds)
    return os.getpid()
