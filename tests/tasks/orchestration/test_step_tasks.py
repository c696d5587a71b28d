"""Steps as Prefect tasks, in real flows against a real server; states are read back from the flow."""

import dataclasses
import json
import os
import pickletools
import threading
from pathlib import Path

import pytest
from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner

from pruning_core.errors import InputError
from tasks.engine.step import Context, step
from tasks.orchestration.step_tasks import prefect_driver, prefect_task
from tasks.store.artifact import Artifact
from tasks.store.locks import is_locked
from tasks.store.store import Store

pytestmark = pytest.mark.usefixtures("prefect_server")
RUNS = []


@step("number")
def number(params, inputs, out, context):
    RUNS.append(params["n"])
    if params["n"] < 0:
        raise InputError("n is negative; give a positive one")
    (out / "n.txt").write_text(str(params["n"]))
    return {"n": params["n"]}


@step("double")
def double(params, inputs, out, context):
    RUNS.append("double")
    (out / "n.txt").write_text(str(2 * inputs["number"].facts["n"]))


@pytest.fixture(autouse=True)
def count():
    RUNS.clear()


@flow
def states_of(store_root, workspace, n):
    """The names of the task states of a two-step pipeline, and the text of its result."""
    call = number.call({"n": n}, {}, "one")
    first = prefect_task("number", store_root, workspace)(call, return_state=True)
    call = double.call({}, {"number": Artifact.from_reference(first.result())}, "two")
    second = prefect_task("double", store_root, workspace)(call, return_state=True)
    return [first.name, second.name, second.result()]


def pipeline(context, n):
    *names, reference = states_of(context.store.root, context.workspace, n)
    return names, context.store.find(reference["key"])


def test_the_second_flow_finds_every_step_cached_and_computes_nothing(context):
    names, artifact = pipeline(context, 21)
    assert names == ["Completed", "Completed"] and RUNS == [21, "double"]
    assert (artifact.path / "n.txt").read_text() == "42"
    names, again = pipeline(context, 21)
    assert names == ["Cached", "Cached"] and RUNS == [21, "double"]
    assert again.digest == artifact.digest


def test_only_what_depends_on_a_changed_param_is_computed(context):
    pipeline(context, 1)
    RUNS.clear()
    names, _ = pipeline(context, 2)
    assert names == ["Completed", "Completed"] and RUNS == [2, "double"]
    assert pipeline(context, 1)[0] == ["Cached", "Cached"]


def test_what_was_computed_without_prefect_is_cached_in_a_flow(context):
    one = context.run(number, {"n": 5}, {})
    context.run(double, {}, {"number": one})
    RUNS.clear()
    assert pipeline(context, 5)[0] == ["Cached", "Cached"] and RUNS == []


@pytest.mark.parametrize("damage", ["deleted", "altered"])
def test_a_record_whose_artifact_is_gone_or_altered_is_no_hit(context, damage):
    pipeline(context, 7)
    path = context.store.find(number.call({"n": 7}, {}).key).path
    if damage == "deleted":
        path.rename(path.with_name("gone"))
    else:
        (path / "n.txt").chmod(0o644)
        (path / "n.txt").write_text("8")
    RUNS.clear()
    names, artifact = pipeline(context, 7)
    assert names == ["Completed", "Cached"] and RUNS == [7]
    assert (artifact.path / "n.txt").read_text() == "14"


def test_a_workspace_that_was_moved_is_still_cached_with_its_new_paths(context, tmp_path):
    pipeline(context, 4)
    context.store.root.rename(tmp_path / "moved")
    names, artifact = pipeline(Context(Store(tmp_path / "moved"), tmp_path), 4)
    assert names == ["Cached", "Cached"] and artifact.path.is_relative_to(tmp_path / "moved")


def test_a_context_can_run_its_steps_through_prefect_and_sees_hits(context):
    context = dataclasses.replace(context, driver=prefect_driver)

    @flow
    def both():
        one = context.run(number, {"n": 3}, {}, "one")
        return [one.hit, context.run(double, {}, {"number": one}).hit]

    assert both() == [False, False]
    assert both() == [True, True]
    assert RUNS == [3, "double"]


def test_the_error_of_a_step_comes_out_as_it_is_and_is_not_cached(context):
    run = dataclasses.replace(context, driver=prefect_driver).run
    for _ in range(2):
        with pytest.raises(InputError, match="n is negative"):
            run(number, {"n": -1}, {})
    assert RUNS == [-1, -1]
    with pytest.raises(InputError, match=r"params\.n"):
        run(number, {"n": float("nan")}, {})


def test_two_flows_at_once_compute_once_and_the_second_is_cached(context):
    seen, begun, go = [], threading.Event(), threading.Event()

    @step("slow")
    def slow(params, inputs, out, context):
        RUNS.append("slow")
        begun.set()
        assert go.wait(60)

    def one_flow():
        task = prefect_task("slow", context.store.root, context.workspace)
        seen.append(task(slow.call({}, {}, "x"), return_state=True).name)

    threads = [threading.Thread(target=flow(one_flow)) for _ in range(2)]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    threads[1].join(timeout=2)
    assert threads[1].is_alive()
    go.set()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(seen) == ["Cached", "Completed"] and RUNS == ["slow"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_step_within_another_task_holds_its_lock_no_longer_than_itself(context, fails):
    lock = context.store.root / "locks" / "prefect" / f"{number.call({'n': 8}, {}).key}.lock"
    held = []

    @task(persist_result=False)
    def variant():
        prefect_driver(context, number.call({"n": 8}, {}))
        held.append(is_locked(lock))
        if fails:
            raise ArithmeticError("after the step")

    for _ in range(2):  # the second finds the result, whose lock a rollback of Prefect would not free
        variant(return_state=True)
        held.append(is_locked(lock))
    assert lock.exists() and held == [False] * 4 and RUNS == [8]


def test_tasks_can_be_submitted_to_a_task_runner(context):
    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def mapped():
        task = prefect_task("number", context.store.root, context.workspace)
        futures = [task.submit(number.call({"n": n}, {}, f"n={n}")) for n in (1, 2, 1)]
        for future in futures:
            future.wait()
        return [future.state.name for future in futures]

    assert sorted(mapped()) == ["Cached", "Completed", "Completed"]
    assert mapped() == ["Cached"] * 3
    assert sorted(RUNS) == [1, 2]


def is_pickle(content):
    """Whether the bytes are a whole pickle, as the standard library's disassembler reads them."""
    try:
        return sum(1 for _ in pickletools.genops(content)) > 0
    except (ValueError, IndexError, KeyError, UnicodeDecodeError):
        return False


def results_of_prefect() -> set[Path]:
    return {path for path in Path(os.environ["PREFECT_HOME"], "storage").rglob("*") if path.is_file()}


def test_nothing_that_is_written_is_a_pickle(context):
    import cloudpickle

    assert is_pickle(cloudpickle.dumps({"a": 1})) and not is_pickle(b'{"a": 1}')
    before = results_of_prefect()
    for _ in range(2):
        pipeline(context, 9)
    paths = [path for path in context.store.root.rglob("*") if path.is_file()]
    records = [path for path in paths if path.is_relative_to(context.store.root / "prefect")]
    assert len(records) == 2
    for path in paths:
        assert path.suffix in ("", ".json", ".txt", ".lock")
        assert not is_pickle(path.read_bytes()), path
    # Flows that other tests made up may have left some.
    assert results_of_prefect() == before
    for path in records:
        assert json.loads(path.read_bytes()).keys() == {"kind", "key", "digest", "path"}
