"""Speed of this machine, measured briefly, and what share of it each kind of work reaches."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pruning_core.plan.flops import Work

SIDE = 1024
"""Of the square matrices that the rate is taken from."""
PROBE_SECONDS = 0.3
"""Of each of the three measurements: longer than the turns in which a busy system deals out its processors."""
SHARE = {
    "products": 1.0,
    "attention": 0.5,
    "statistics": 0.95,
    "factor": 0.4,
    "sweep": 0.17,
    # Twice as wide numbers.
    "least_squares": 0.45,
}
"""Of the rate of matrix products, as measured on a CPU with the sizes of a model of a billion parameters."""
HASHED = 2**23
"""Bytes that the rate of digests is taken from."""
WRITTEN_PER_SECOND = 300e6
"""Bytes to a disk and flushed; what an ordinary solid state drive does at least."""
START_SECONDS = 10.0
"""Imports, tokens and what else is there before the first block."""


@dataclass(frozen=True)
class Speed:
    """What this machine does in a second."""

    operations: float
    """Floating point operations in matrix products, in the dtype and on the device that blocks run on."""
    moved: float
    """Bytes of results of elementwise operations."""
    hashed: float
    """Bytes whose digest is taken."""

    def computing(self, work: Work) -> dict[str, float]:
        """Seconds by kind of work."""
        seconds = {kind: count / (SHARE[kind] * self.operations) for kind, count in work.by_kind().items()}
        return seconds | {"elementwise": work.moved / self.moved}

    def storing(self, read: float, written: float) -> float:
        """Seconds to read what is hashed once, and to write, flush and hash what is written."""
        return (read + written) / self.hashed + written / WRITTEN_PER_SECOND


def measured_speed(device: torch.device, dtype: torch.dtype, rate: float | None = None) -> Speed:
    """Measure for a fraction of a second.

    Args:
        rate: floating point operations per second of matrix products, where it is known; is not measured then.
    """
    return Speed(rate or _operations(device, dtype), _moved(device), _hashed())


def _operations(device: torch.device, dtype: torch.dtype) -> float:
    draw = torch.Generator().manual_seed(0)
    left = torch.randn(SIDE, SIDE, generator=draw).to(device, dtype)
    out = torch.empty_like(left)
    return 2 * SIDE**3 / _mean(lambda: torch.mm(left, left, out=out), device)


def _moved(device: torch.device) -> float:
    values = torch.ones(2**22, device=device)
    return values.nbytes / _mean(lambda: torch.nn.functional.silu(values), device)


def _hashed() -> float:
    content = bytes(HASHED)
    return HASHED / _mean(lambda: hashlib.sha256(content), torch.device("cpu"))


def _mean(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one turn. The mean, since other work on the machine will slow the run down as well."""
    work()
    _wait(device)
    start, turns = time.perf_counter(), 0
    while time.perf_counter() - start < PROBE_SECONDS:
        work()
        _wait(device)
        turns += 1
    return (time.perf_counter() - start) / turns


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
