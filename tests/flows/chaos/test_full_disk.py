"""A sweep whose disk fills up, or whose files may not grow: one sentence, nothing half, equal bits in the end."""

import random
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import SWEEP, Undisturbed, begin, digests, finish, left_over, published, sentences, shown

from tasks.store.store import Store

ROOM = "400m"
TIMES = 3


@pytest.fixture
def small_disk(shipped) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A workspace whose .espalier is a file system of its own, and what changes its size."""
    root = shipped()
    hidden = root / ".espalier"
    hidden.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", hidden]
    mounted = subprocess.run(mounting, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not permitted here: {mounted.stderr.strip()}")
    yield root, lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", hidden], check=True)
    subprocess.run(["umount", "--lazy", hidden], check=True)


def test_a_sweep_that_runs_out_of_disk_says_so_and_goes_on_when_there_is_room(
    small_disk, undisturbed: Undisturbed, start_warm, draw: random.Random, figures
):
    root, resize = small_disk
    said, kept = [], []
    for _ in range(TIMES):
        command = start_warm(root, *SWEEP)
        count = len(published(root)) + draw.randrange(3, 12)
        deadline = time.monotonic() + 120
        while len(list((root / ".espalier/objects").glob("*"))) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        resize(str(shutil.disk_usage(root / ".espalier").used + 20_000))
        full = command.wait()
        assert full.code in (1, 2) and "Traceback" not in full.err, full
        assert len(sentences(full)) == 1 and "full" in full.err + full.out, full
        said.append(sentences(full)[0])
        _nothing_half(root)
        kept.append(len(published(root)))
        resize(ROOM)
    before = {undisturbed.labels[key] for key in published(root)}
    done = start_warm(root, *SWEEP).wait()
    assert done.code == 0, done.err
    assert not before & set(shown(done, "computed"))
    assert digests(root) == undisturbed.digests and not left_over(root)
    figures(
        "disk",
        f"the disk full {TIMES} times in one sweep: one sentence each time, 0 half results, {kept} results kept, "
        "0 digests differ in the end",
        kept=kept,
        said=[sentence.replace(str(root), "WORKSPACE") for sentence in said],
    )


def test_a_limit_on_the_size_of_files_is_told_and_the_run_goes_on_without_it(
    shipped, undisturbed: Undisturbed, checkout, figures
):
    root = shipped()
    size = (root / "models/stdlib-2.8m/model.safetensors").stat().st_size

    # Less than a model, more than a block: every step but the last of a variant fits.
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    arguments = ["step", "prune", "wanda-50"]
    limited = finish(begin(root, *arguments, environment=checkout, before=limit), root)
    assert limited.code == 2 and "Traceback" not in limited.err, limited
    [sentence] = sentences(limited)
    assert "limit on file sizes" in sentence
    _nothing_half(root)
    kept = len(published(root))
    done = finish(begin(root, *arguments, environment=checkout), root)
    assert done.code == 0, done.err
    stored_digests = digests(root)
    assert stored_digests.items() <= undisturbed.digests.items() and len(stored_digests) == kept + 1
    figures(
        "file-size",
        f"files limited to {size // 2 / 1e6:.1f} MB: one sentence, 0 half results, {kept} of {kept + 1} kept, "
        "0 digests differ in the end",
        kept=kept,
    )


def _nothing_half(root: Path) -> None:
    """Every published folder is an intact artifact, and no build is left."""
    store = Store(root / ".espalier")
    assert len(list(store.artifacts())) == len(list(store.objects.iterdir()))
    assert not list((root / ".espalier" / "tmp").glob("*"))
