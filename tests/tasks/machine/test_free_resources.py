"""What there is of memory and disk, with and without the limits of a container."""

from pathlib import Path

import psutil
import pytest

from tasks.machine import free_resources

GIB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with 8 GiB to spare."""
    available = psutil.virtual_memory()._replace(available=8 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)


def own() -> int:
    return psutil.Process().memory_info().rss


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, 8 * GIB),
        ({"memory.max": "max\n", "memory.current": "1000"}, 8 * GIB),
        ({"memory.max": str(3 * GIB), "memory.current": str(2 * GIB)}, GIB),
        (
            {
                "memory.max": str(3 * GIB),
                "memory.current": str(2 * GIB),
                "memory.stat": f"anon 5\ninactive_file {GIB}\n",
            },
            2 * GIB,
        ),
        (
            {
                "memory/memory.limit_in_bytes": str(4 * GIB),
                "memory/memory.usage_in_bytes": str(3 * GIB),
                "memory/memory.stat": f"total_inactive_file {GIB}\n",
            },
            2 * GIB,
        ),
        ({"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/memory.usage_in_bytes": "0"}, 8 * GIB),
    ],
)
def test_the_tightest_of_machine_and_container_counts(tmp_path: Path, files, left):
    found = free_resources.free_memory(write(tmp_path, files))
    assert found - left == pytest.approx(own(), rel=0.1)


def test_the_disk_of_a_folder_that_is_not_there_yet_is_that_of_the_nearest_one_above(tmp_path: Path):
    assert free_resources.free_disk(tmp_path / "a" / "b") == pytest.approx(free_resources.free_disk(tmp_path), rel=0.1)
