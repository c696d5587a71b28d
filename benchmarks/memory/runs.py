"""Runs of the compression in processes of their own: what they took, and that a killed one goes on where it was."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common.launch import QUIET, ROOT
from benchmarks.memory.model import SPARSITY, VARIANT
from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.errors import ComputationError

POLL_SECONDS = 1.0
"""Seconds between two looks at the blocks that are done and the bytes on disk."""


def run(workspace: Path, kill_after: int | None = None) -> dict[str, Any]:
    """Compress the variant in `workspace`; returns peak_bytes (resident), seconds, cpu_seconds, disk_bytes, blocks.

    disk_bytes is the most that lay in the workspace at any look; blocks how many were done at the end.

    Args:
        kill_after: send SIGKILL a moment after so many blocks are done.

    Raises:
        ComputationError: the process failed.
    """
    command = [sys.executable, "-m", "flows.cli", "step", "prune", VARIANT]
    environment = os.environ | QUIET | {"PYTHONPATH": str(ROOT)}
    start, most = time.perf_counter(), 0
    with (workspace / "output.txt").open("a") as output:
        process = subprocess.Popen(command, cwd=workspace, env=environment, stdout=output, stderr=output)
        while True:
            most = max(most, disk_bytes(workspace))
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if kill_after is not None and len(blocks(workspace)) >= kill_after:
                # In the middle of the next block.
                time.sleep(2 * POLL_SECONDS)
                os.kill(process.pid, signal.SIGKILL)
                pid, status, used = os.wait4(process.pid, 0)
                break
            time.sleep(POLL_SECONDS)
    if status and kill_after is None:
        lines = (workspace / "output.txt").read_text().strip().splitlines()
        raise ComputationError(f"the run in {workspace} failed: {lines[-1] if lines else 'no message'}")
    return {
        # Linux counts it in KiB.
        "peak_bytes": used.ru_maxrss * 1024,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "disk_bytes": max(most, disk_bytes(workspace)),
        "blocks": len(blocks(workspace)),
    }


def disk_bytes(workspace: Path) -> int:
    """Bytes of all files of the workspace."""
    total = 0
    for folder, _, files in os.walk(workspace):
        for name in files:
            try:
                total += (Path(folder) / name).stat().st_size
            except FileNotFoundError:
                continue  # Renamed between the two looks.
    return total


def blocks(workspace: Path) -> dict[int, dict[str, Any]]:
    """Number -> manifest, with "written" (a time), of every block that is stored."""
    manifests = {}
    for path in (workspace / ".espalier" / "objects").glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        if manifest["kind"] == "prune_block":
            manifests[manifest["params"]["block"]] = manifest | {"written": path.stat().st_mtime_ns}
    return manifests


def resume(workspace: Path, depth: int) -> dict[str, Any]:
    """Kill a run half way, run it again, and say what was done twice.

    Returns killed and resumed (as of `run`), kept: whether the second process left the first one's blocks as they were.
    """
    killed = run(workspace, kill_after=depth // 2)
    before = blocks(workspace)
    resumed = run(workspace)
    after = blocks(workspace)
    kept = all(after[index]["written"] == block["written"] for index, block in before.items())
    return {"killed": killed, "resumed": resumed, "kept": kept}


def digests(workspace: Path) -> list[str]:
    """The digests of all blocks in their order, and of the model."""
    model = json.loads((workspace / "artifacts" / "models" / VARIANT / "manifest.json").read_text())
    return [block["digest"] for _, block in sorted(blocks(workspace).items())] + [model["digest"]]


def exactly_sparse(workspace: Path) -> int:
    """How many matrices were read, one at a time, from the shards written: each has exactly its share of zeros.

    Raises:
        ComputationError: one has not.
    """
    directory = workspace / "artifacts" / "models" / VARIANT
    checkpoint = Checkpoint(directory)
    layers = json.loads((directory / "manifest.json").read_text())["facts"]["layers"]
    for layer in layers:
        weight = checkpoint.load(layer["stored"])
        zeros = weight.numel() - int(weight.count_nonzero())
        if zeros != round(SPARSITY * weight.numel()):
            raise ComputationError(f"{layer['stored']} has {zeros} zeros among {weight.numel()} weights")
    return len(layers)
