"""The compiled kernel is kept for the next process, and compiled anew where that cannot be."""

from pathlib import Path

import numba
import pytest
from numba.core import caching

from pruning_core.column_sweep import numba_kernel

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Where kernels are kept; none is there."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def compiled():
    """As the first call in a process."""
    return numba_kernel._compiled.__wrapped__(False, False)


def found(kernel) -> int:
    """How many of its compiled forms came from the disk."""
    return sum(kernel.stats.cache_hits.values())


def test_the_next_process_finds_the_kernel_of_the_one_before(folder: Path):
    assert found(compiled()) == 0 and list(folder.rglob("*.nbc"))
    assert found(compiled()) == 1


@pytest.mark.parametrize("damage", ["a file is empty", "no folder"])
def test_a_kernel_that_cannot_be_kept_is_compiled(folder: Path, monkeypatch, damage: str):
    if damage == "no folder":
        monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    else:
        compiled()
        [index] = folder.rglob("*.nbi")
        index.write_bytes(b"")
    kernel = compiled()
    assert kernel.signatures and found(kernel) == 0
