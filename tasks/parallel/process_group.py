"""Calibration on several processes that `torchrun` starts: the first one drives, the others follow it.

The first runs the flow, the store and everything else. Where a step calibrates it tells the others which one, and they
run the same step on their own shard of the windows, meeting it in the sums. What they make is the first one's to store.
All see the same workspace under the same path.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from pruning_core.calibration.shards import Shards, reaching
from pruning_core.errors import InputError
from tasks.engine.params import as_json
from tasks.store.artifact import Artifact
from tasks.workspace.plugins import load_plugins, loaded_plugins

if TYPE_CHECKING:
    from tasks.engine.step import Context

PATIENCE = timedelta(days=7)
"""How long the others wait for the first one, which may be evaluating meanwhile."""
STOP = b"null"


def processes() -> int:
    """The number of processes; 1 where this one is alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process; 0 where it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def shards_of(count: int) -> Shards:
    """How the windows of a step with so many shards are divided, and which of them this process holds.

    Raises:
        InputError: another number of shards than of processes.
    """
    if processes() == 1:
        return Shards(count)
    if count != processes():
        raise InputError(
            f"compute.shards is {count} and {processes()} processes run; set compute.shards to {processes()}, with "
            "which one process alone reaches the same result"
        )
    return Shards(count, rank())


def join() -> None:
    """Join the process group that `torchrun` describes."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)


def leave() -> None:
    """Leave the process group; processes that wait for this one end with an error."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def together(module: str, name: str, params: Any, inputs: dict[str, Artifact], context: "Context") -> Iterator[None]:
    """Around the calibration of a step: the other processes run this step too, and a failure ends the group.

    Nothing to do where this process is alone or follows itself.
    """
    if processes() == 1 or rank():
        yield
        return
    job = {
        "step": [module, name],
        "params": as_json(params),
        "inputs": {label: artifact.reference() for label, artifact in inputs.items()},
        "store": str(context.store.root.resolve()),
        "workspace": str(context.workspace.resolve()),
        "plugins": loaded_plugins(),
        "key": context.key,
    }
    done = False
    try:
        _send(json.dumps(job).encode())
        yield
        done = True
    finally:
        if not done:
            # Who knows which sum the others wait for.
            leave()


def stop() -> None:
    """Tell the other processes to end."""
    if processes() > 1 and rank() == 0:
        _send(STOP)


def follow() -> None:
    """Run every step that the first process announces until it says that there are no more."""
    from tasks.engine.step import Context, load_step
    from tasks.store.store import Store

    while (job := json.loads(_receive())) is not None:
        load_plugins(Path(job["workspace"]), job["plugins"])
        context = Context(Store(Path(job["store"])), Path(job["workspace"]), key=job["key"])
        inputs = {label: Artifact.from_reference(reference) for label, reference in job["inputs"].items()}
        with context.store.use.shared(), tempfile.TemporaryDirectory(prefix="espalier-shard-") as folder:
            step = load_step(*job["step"])
            step.function(step.parse_params(job["params"]), inputs, Path(folder), context)


def _send(message: bytes) -> None:
    with reaching():
        dist.broadcast(torch.tensor(len(message)), 0)
        dist.broadcast(torch.frombuffer(bytearray(message), dtype=torch.uint8), 0)


def _receive() -> bytes:
    length = torch.zeros((), dtype=torch.int64)
    with reaching():
        dist.broadcast(length, 0)
        message = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(message, 0)
    return bytes(message.tolist())
