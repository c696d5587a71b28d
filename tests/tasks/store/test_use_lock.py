"""Who uses a store: from the first use to the end of the process, however it ends; and who has it alone."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pruning_core.errors import InputError
from tasks.lineage.gc import Item, remove
from tasks.store.locks import is_locked
from tasks.store.store import Store
from tasks.store.use_lock import UseLock

USE = """
import sys
import time
from pathlib import Path
from tasks.store.store import Store

made = {"params": {}, "inputs": {}}
Store(Path(sys.argv[1])).get_or_compute("step", "key", made, lambda out: (out / "x").write_text("1") and {})
print("found", flush=True)
time.sleep(600)
"""


STAYS = """
import sys
import time
from pathlib import Path
from tasks.store.store import Store

store, made = Store(Path(sys.argv[1])), {"params": {}, "inputs": {}}
for number in range(3):
    key = f"key{number}"
    found = store.get_or_compute("step", key, made, lambda out: (out / "x").write_text("1") and {})
    time.sleep(0.1)
    assert (found.path / "x").read_text() == "1", key
for number in range(3):
    assert store.check(f"key{number}")[0], number
"""


def put(store: Store) -> None:
    store.get_or_compute("step", "key", {"params": {}, "inputs": {}}, lambda out: (out / "x").write_text("1") and {})


@pytest.fixture
def root(tmp_path: Path, start) -> Path:
    """A store with one artifact, which no living process uses."""
    user = start(USE, tmp_path)
    assert user.stdout.readline() == "found\n"
    user.kill()
    user.wait()
    return tmp_path


def refused(root: Path) -> str:
    with pytest.raises(InputError) as told, UseLock(root).alone():
        pass
    return str(told.value)


def test_who_found_something_is_told_by_name_until_it_is_killed_and_then_nothing_is_left(root: Path, start):
    users = [start(USE, root) for _ in range(2)]
    for user in users:
        assert user.stdout.readline() == "found\n"
    told = refused(root)
    assert told.startswith("the store is in use by process ") and "nothing is removed" in told
    assert all(f"process {user.pid} (" in told for user in users)
    users[0].kill()
    users[0].wait()
    assert f"process {users[1].pid} (" in refused(root) and f"process {users[0].pid} (" not in refused(root)
    users[1].kill()
    users[1].wait()
    with UseLock(root).alone():
        assert sorted(path.name for path in root.iterdir()) == ["locks", "objects", "signatures", "tmp", "use.lock"]
    assert not is_locked(root / "use.lock")


def test_a_process_that_found_nothing_uses_nothing(root: Path):
    assert Store(root).find("other") is None
    with UseLock(root).alone():
        pass


def test_this_process_is_one_of_them_from_its_first_find_on(root: Path):
    assert Store(root).find("key")
    assert f"process {os.getpid()} (" in refused(root)


def test_who_wants_to_use_a_store_waits_while_it_is_collected(root: Path, start):
    with UseLock(root).alone():
        user = start(USE, root)
        time.sleep(3)
        os.set_blocking(user.stdout.fileno(), False)
        assert user.stdout.readline() == ""
        # Found by the collector itself, which is no user.
        put(Store(root))
    os.set_blocking(user.stdout.fileno(), True)
    assert user.stdout.readline() == "found\n"


def test_nothing_that_a_process_found_or_made_goes_while_another_collects_all_that_it_can(tmp_path: Path, start):
    users, removed, refused = [start(STAYS, tmp_path) for _ in range(2)], 0, 0
    store, begun = Store(tmp_path), 2
    while users:
        try:
            with store.use.alone():
                keys = [path.name for path in store.objects.glob("*")]
                remove(store, [Item("objects", key, "step", 0, 0.0) for key in keys])
                removed += len(keys)
        except InputError:
            refused += 1
        for user in [user for user in users if user.poll() is not None]:
            assert user.returncode == 0, user.stderr.read()
            users.remove(user)
            if begun < 8:
                # Others begin at any instant of a collection.
                users.append(start(STAYS, tmp_path))
                begun += 1
        time.sleep(0.01)
    assert refused
    with store.use.alone():
        left = len(list(store.objects.glob("*")))
    assert removed or left == 3


def test_a_block_is_left_again_and_keeps_the_store_while_any_thread_is_in_one(root: Path):
    store, inside, leave = Store(root), threading.Event(), threading.Event()

    def other() -> None:
        with store.use.shared():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with store.use.shared():
        thread.start()
        inside.wait()
        assert store.find("key")
        assert "in use" in refused(root)
    assert "in use" in refused(root)
    leave.set()
    thread.join()
    with store.use.alone():
        pass


def test_a_forked_child_keeps_what_its_killed_parent_found(root: Path, start):
    fork = "import os\nchild = os.fork()\nprint(child, flush=True) if child else None\ntime.sleep(600)"
    parent = start(USE.replace("time.sleep(600)", fork), root)
    assert parent.stdout.readline() == "found\n"
    child = int(parent.stdout.readline())
    try:
        parent.kill()
        parent.wait()
        assert f"process {child} (" in refused(root)
    finally:
        os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_locked(root / "use.lock"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
