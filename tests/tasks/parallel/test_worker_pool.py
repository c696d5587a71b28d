"""Workers of a search that are tasks of Prefect: what they do, and what is told when one is lost."""

import math
import operator
import os
from importlib.util import find_spec

import psutil
import pytest

from pruning_core.errors import ComputationError
from pruning_core.settings.compute import Workers
from tasks.parallel.worker_pool import workers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
PROCESS = Workers("processes", 1)


@pytest.mark.parametrize(
    "name", ["processes", pytest.param("dask", marks=pytest.mark.long), pytest.param("ray", marks=pytest.mark.long)]
)
def test_other_processes_do_the_pieces_and_each_result_comes_to_its_own(name: str):
    if name != "processes" and find_spec(f"prefect_{name}") is None:
        pytest.skip(f"prefect_{name} is not installed: pip install 'espalier[{name}]'")
    with workers(Workers(name, 2)) as submit:
        pieces = [submit(math.comb, 30, chosen) for chosen in range(31)]
        found = [piece.result() for piece in reversed(pieces)]
        at_work = {submit(os.getpid).result() for _ in range(8)}
        joined = submit(operator.add, [[1, 2.5], {"a": None}], ["three"]).result()
    assert found == [math.comb(30, chosen) for chosen in reversed(range(31))]
    assert at_work and os.getpid() not in at_work
    assert joined == [[1, 2.5], {"a": None}, "three"]
    if name == "processes":
        assert not [one for one in at_work if psutil.pid_exists(one)]


def test_what_nobody_waits_for_keeps_no_worker():
    with workers(PROCESS) as submit:
        for _ in range(10):
            submit(math.sqrt, 2.0)


@pytest.mark.parametrize(
    ("function", "argument", "told"),
    [(math.sqrt, -1, "ValueError: math domain error"), (os._exit, 1, "terminated abruptly")],
    ids=["failed", "killed"],
)
def test_a_worker_that_ends_is_told_and_holds_nobody_up(function, argument, told: str):
    ended = pytest.raises(ComputationError, match=rf"a worker of compute\.workers ended: .*{told}")
    with ended, workers(PROCESS) as submit:
        submit(function, argument).result()


KILLED = """
import os
import sys

os.environ["PREFECT_API_URL"] = sys.argv[1]

from pruning_core.settings.compute import Workers
from tasks.parallel.worker_pool import workers

with workers(Workers("processes", 1)) as submit:
    print(submit(os.getpid).result(), flush=True)
    sys.stdin.read()
"""


def test_no_worker_outlives_a_killed_command(start):
    from prefect.settings import PREFECT_API_URL

    command = start(KILLED, PREFECT_API_URL.value())
    worker = psutil.Process(int(command.stdout.readline()))
    assert worker.is_running()
    command.kill()
    gone, _ = psutil.wait_procs([worker], timeout=30)
    assert gone == [worker]
