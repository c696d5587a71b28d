"""Free memory and disk for a run."""

import shutil
from pathlib import Path

import psutil
import torch

CGROUPS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Limit, use, and where the part of the use stands that the system takes back first; version 2, then version 1."""
CGROUP_ROOT = Path("/sys/fs/cgroup")


def free_memory(cgroups: Path = CGROUP_ROOT) -> int:
    """Bytes that this process may use in all: what it has, and what other processes and a container's limit leave."""
    resident = psutil.Process().memory_info().rss
    return resident + min(psutil.virtual_memory().available, *_left_below_limits(cgroups))


def free_device_memory() -> int:
    """Free bytes of the first CUDA device."""
    free, _ = torch.cuda.mem_get_info()
    return free


def free_disk(folder: Path) -> int:
    """Free bytes on the disk that holds the folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _left_below_limits(root: Path) -> list[int]:
    left = [2**63]
    for limit, used, statistics, cached in CGROUPS:
        # Files that are absent, or the word "max", set no limit.
        if (root / limit).is_file() and (root / used).is_file():
            text = (root / limit).read_text().strip()
            if text.isdigit():
                left.append(int(text) - int((root / used).read_text()) + _page_cache(root / statistics, cached))
    return left


def _page_cache(statistics: Path, name: str) -> int:
    if not statistics.is_file():
        return 0
    lines = (line.split() for line in statistics.read_text().splitlines())
    return next((int(value) for key, value in lines if key == name), 0)
