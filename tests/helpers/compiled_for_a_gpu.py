"""Compiles the Triton kernel for an H100 or H200 without one, and prints what a thread needs as JSON.

Everything but the launch happens as on a GPU, with tensors in main memory. Run as a process of its own: under Triton's
interpreter nothing is compiled.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from pruning_core.column_sweep import GroupRule, triton_kernel
from pruning_core.column_sweep.grids import BlockGrid

ROWS, WIDTH, COLUMNS = 2048, 128, 1024


class Pretended:
    """The driver of a GPU that is not there."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiling:
    """Stands in for a kernel; where that is launched, it is compiled and its program kept."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.programs: list[bytes] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            self.programs.append(self.kernel.warmup(*arguments, grid=grid, **options).asm["cubin"])

        return launch


def sweep_block(group: int | None, quantized: bool) -> None:
    """One block, with groups that lose half, or with grids for whole rows, or with both."""
    weight = torch.zeros(ROWS, COLUMNS)[:, :WIDTH]
    removed, error = torch.zeros(ROWS, WIDTH, dtype=torch.bool), torch.zeros(ROWS, WIDTH)
    groups = GroupRule(group, group // 2, 0) if group else None
    codes, runs = torch.zeros(ROWS, WIDTH, dtype=torch.uint8), torch.zeros(WIDTH, dtype=torch.int64)
    grid = BlockGrid(torch.ones(ROWS, 1), torch.zeros(ROWS, 1), runs, 15, codes) if quantized else None
    triton_kernel.fix_columns(weight, torch.eye(WIDTH), removed, error, torch.ones(WIDTH), groups, grid)


def needs(program: bytes) -> dict[str, int]:
    """Registers and bytes of stack of a thread; nothing in the kernel asks for a stack but what is spilled."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(program)
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    words = {"registers": "REG", "stack": "STACK"}
    return {name: int(re.search(rf"{word}:(\d+)", told)[1]) for name, word in words.items()}


if __name__ == "__main__":
    triton.runtime.driver.set_active(Pretended())
    triton_kernel._fix_tile = compiling = Compiling(triton_kernel._fix_tile)
    for case in json.loads(sys.argv[1]):
        sweep_block(*case)
    json.dump([needs(program) for program in compiling.programs], sys.stdout)
