import copy
import signal
import time

import pytest
from prefect.locking.protocol import LockManager

from tasks.orchestration.store_view import FlockLockManager

HOLD = """
import sys, time
from pathlib import Path
from tasks.orchestration.store_view import FlockLockManager
assert FlockLockManager(Path(sys.argv[1])).acquire_lock("key", "them")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def manager(tmp_path):
    return FlockLockManager(tmp_path)


def test_it_is_what_prefect_takes_for_a_lock_manager(manager):
    assert isinstance(manager, LockManager)


def test_a_lock_is_held_by_one_and_released_by_that_one_only(manager):
    assert manager.acquire_lock("key", "me") and manager.acquire_lock("key", "me")
    assert manager.is_locked("key") and manager.is_lock_holder("key", "me")
    assert not manager.acquire_lock("key", "you", acquire_timeout=0.1)
    assert not manager.wait_for_lock("key", timeout=0.1)
    with pytest.raises(ValueError, match="you does not hold"):
        manager.release_lock("key", "you")
    manager.release_lock("key", "me")
    assert not manager.is_locked("key") and manager.wait_for_lock("key")
    assert manager.acquire_lock("key", "you", acquire_timeout=0)
    manager.release_lock("key", "you")


def test_a_copy_knows_what_the_original_holds_because_prefect_copies_it(manager):
    manager.acquire_lock("key", "me")
    assert copy.deepcopy(manager).is_lock_holder("key", "me")
    copy.deepcopy(manager).release_lock("key", "me")
    assert not manager.is_locked("key")


def test_dotted_keys_do_not_share_a_lock(manager):
    manager.acquire_lock("gptq-0.5-w4", "me")
    assert not manager.is_locked("gptq-0.6-w8")
    manager.release_lock("gptq-0.5-w4", "me")


def test_the_lock_of_a_killed_process_does_not_hang_the_next_run(manager, tmp_path, start):
    holder = start(HOLD, tmp_path)
    assert holder.stdout.readline() == "held\n"
    assert manager.is_locked("key") and not manager.is_lock_holder("key", "them")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    begun = time.monotonic()
    assert manager.acquire_lock("key", "me", acquire_timeout=5)
    assert time.monotonic() - begun < 1
    manager.release_lock("key", "me")


async def wait_and_take(manager):
    assert await manager.await_for_lock("key", timeout=1)
    return await manager.aacquire_lock("key", "me")


def test_the_asynchronous_forms_do_the_same(manager):
    import anyio

    assert anyio.run(wait_and_take, manager)
    assert manager.is_lock_holder("key", "me")
    manager.release_lock("key", "me")
