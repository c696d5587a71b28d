"""Workers of a search that are killed at one instant or another: it is told, and nobody waits for what never comes."""

import math
import os
import signal
import time
from importlib.util import find_spec

import deadly_pieces
import psutil
import pytest

from pruning_core.errors import ComputationError
from pruning_core.settings.compute import Workers
from tasks.parallel.worker_pool import workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.usefixtures("prefect_server")]
PROCESSES = Workers("processes", 2)
SECONDS = 30
"""At most from the kill until the workers are gone and the error is raised; with none of them it takes under two."""
TOLD = r"a worker of compute\.workers ended: .*terminated abruptly"


class Killed:
    """Kills by signal 9, and remembers when."""

    def __init__(self) -> None:
        self.at: float | None = None

    def __call__(self, *pids: int) -> None:
        self.at = time.monotonic()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def by_itself(self) -> None:
        """A piece does it, from now on at some time."""
        self.at = time.monotonic()


@pytest.fixture
def kill():
    killed = Killed()
    yield killed
    assert time.monotonic() - killed.at < SECONDS
    assert begun() == []


def begun() -> list[psutil.Process]:
    """The processes of the pool, in the order of their starts."""
    children = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
    return sorted((one for one in children if "spawn_main" in " ".join(one.cmdline())), key=psutil.Process.create_time)


def first_begun(number: int) -> list[int]:
    """Process ids, as soon as there are so many."""
    while len(found := begun()) < number:
        time.sleep(0.001)
    return [one.pid for one in found]


def both(submit) -> list[int]:
    """Process ids of two workers that have done pieces, and wait for the next."""
    found: set[int] = set()
    while len(found) < 2:
        pieces = [submit(deadly_pieces.meet, 0.2) for _ in range(2)]
        found |= {piece.result() for piece in pieces}
    return sorted(found, key=lambda pid: psutil.Process(pid).create_time())


@pytest.mark.parametrize("number", [1, 2])
def test_while_workers_are_starting(kill, number: int):
    ended = None
    try:
        with workers(PROCESSES) as submit:
            piece = submit(math.comb, 5, 2)
            kill(*first_begun(number)[:number])
            # One alone does all the work, where the other was not missed yet.
            assert piece.result() == 10
    except ComputationError as error:
        ended = str(error)
    assert ended is None if ended is None and number == 1 else "terminated abruptly" in ended


def test_before_the_first_piece(kill):
    with pytest.raises(ComputationError, match=TOLD), workers(PROCESSES) as submit:
        pids = first_begun(2)
        idle(*pids)
        kill(*pids)
        submit(math.comb, 5, 2).result()


def idle(*pids: int) -> None:
    """Wait until these have started and do nothing for a second."""
    before = None
    while before != (before := [psutil.Process(pid).cpu_times()[:2] for pid in pids]) or min(map(sum, before)) < 1:
        time.sleep(1)


@pytest.mark.parametrize("which", [0, 1])
def test_in_a_piece_that_waits(kill, which: int):
    with pytest.raises(ComputationError, match=TOLD), workers(PROCESSES) as submit:
        pids = both(submit)
        pieces = [submit(time.sleep, 3600) for _ in range(2)]
        time.sleep(0.5)
        kill(pids[which])
        for piece in pieces:
            piece.result()


def test_in_a_piece_that_computes(kill):
    with pytest.raises(ComputationError, match=TOLD), workers(PROCESSES) as submit:
        both(submit)
        kill.by_itself()
        submit(deadly_pieces.die_at_work, 0.5).result()


def test_with_the_first_piece(kill):
    with pytest.raises(ComputationError, match=TOLD), workers(PROCESSES) as submit:
        pieces = [submit(deadly_pieces.die) for _ in range(3)]
        first_begun(2)
        kill.by_itself()
        pieces[2].result()


def test_while_a_result_is_reported(kill):
    with pytest.raises(ComputationError, match=TOLD), workers(PROCESSES) as submit:
        both(submit)
        kill.by_itself()
        submit(deadly_pieces.die_while_reporting).result()


@pytest.mark.parametrize("which", [0, 1])
def test_between_two_pieces(kill, which: int):
    with pytest.raises(ComputationError, match=TOLD), workers(PROCESSES) as submit:
        kill(both(submit)[which])
        while True:
            # The other does them until the loss is seen.
            submit(math.comb, 5, 2).result()
            time.sleep(0.1)


def test_after_an_answer_that_is_not_read_yet(kill):
    with pytest.raises(ComputationError, match=TOLD), workers(PROCESSES) as submit:
        both(submit)
        kill.by_itself()
        answer = submit(deadly_pieces.die_later, 0.3)
        time.sleep(1)
        assert answer.result() > 0
        submit(time.sleep, 3600).result()


def test_an_idle_one_while_the_other_is_at_work(kill):
    with pytest.raises(ComputationError, match=TOLD), workers(PROCESSES) as submit:
        pids = both(submit)
        at_work = submit(os.getpid).result()
        piece = submit(time.sleep, 3600)
        time.sleep(0.5)
        kill(*(pid for pid in pids if pid != at_work))
        piece.result()


def test_when_all_is_done_it_is_nobodys_loss(kill):
    with workers(PROCESSES) as submit:
        kill(*both(submit))


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_of_a_cluster_whose_scheduler_would_give_the_task_to_another(name: str):
    if find_spec(f"prefect_{name}") is None:
        pytest.skip(f"prefect_{name} is not installed: pip install 'espalier[{name}]'")
    with pytest.raises(ComputationError, match=TOLD), workers(Workers(name, 2)) as submit:
        pids = both(submit)
        pieces = [submit(time.sleep, 3600) for _ in range(2)]
        time.sleep(0.5)
        begun = time.monotonic()
        os.kill(pids[0], signal.SIGKILL)
        for piece in pieces:
            piece.result()
    assert time.monotonic() - begun < SECONDS
