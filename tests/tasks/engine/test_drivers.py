"""What each driver does for one call: how often it works out the key, builds the method and asks the store."""

from collections import Counter
from dataclasses import replace

import pytest
from prefect import flow

from tasks.engine import step as step_module
from tasks.engine.look import Look
from tasks.engine.step import direct, step
from tasks.engine.step_log import StepLog
from tasks.orchestration.step_tasks import prefect_driver

COUNTS = Counter()


def chosen_modules(params):
    COUNTS["methods built"] += 1
    return ["pruning_core.errors"]


@step("counted", modules=chosen_modules)
def counted(params, inputs, out, context):
    COUNTS["runs"] += 1


@pytest.fixture
def run(context, monkeypatch):
    """Runs the step by a driver and gives what that took; of the store, questions about the key of this call."""
    call = counted.call({"n": 1}, {})

    def count(owner, name, what, of=lambda *given: True):
        real = getattr(owner, name)

        def counting(*given, **options):
            COUNTS[what] += of(*given)
            return real(*given, **options)

        monkeypatch.setattr(owner, name, counting)

    count(step_module, "module_digests", "code digests")
    count(step_module, "key_of", "keys")
    for name in ("find", "_find_locked"):
        count(type(context.store), name, "lookups", lambda store, key, *more: key == call.key)

    def run(driver):
        COUNTS.clear()
        return replace(context, driver=driver).run(counted, {"n": 1}, {}), dict(COUNTS)

    return run


ONCE = {"keys": 1, "code digests": 1, "methods built": 1}


def test_a_call_is_worked_out_once_and_the_store_asked_before_and_under_its_lock(run):
    assert run(direct)[1] == ONCE | {"lookups": 2, "runs": 1}
    assert run(direct)[1] == ONCE | {"lookups": 1}


@pytest.mark.usefixtures("prefect_server")
def test_through_prefect_it_is_worked_out_once_too_and_prefect_asks_twice_for_what_is_there(run):
    through_prefect = flow(lambda: run(prefect_driver), name="one step")
    assert through_prefect()[1] == ONCE | {"lookups": 2, "runs": 1}
    # Prefect's transaction asks whether there is a record, then reads it.
    assert through_prefect()[1] == ONCE | {"lookups": 2}


def test_a_log_adds_nothing_and_asks_no_second_time(run):
    log = StepLog(direct)
    assert run(log)[1] == ONCE | {"lookups": 2, "runs": 1}
    assert run(log)[1] == ONCE
    assert [record["state"] for record in log.records] == ["Completed"]


def test_looking_works_a_call_out_once_and_computes_and_moves_nothing(run, context, monkeypatch):
    real, checks = context.store.check, []
    look = Look()
    monkeypatch.setattr(type(context.store), "check", lambda store, key, *more: checks.append(key) or real(key, *more))
    assert run(look) == (None, ONCE) and len(checks) == 1 and not context.store.root.exists()
    made, _ = run(direct)
    checks.clear()
    seen, counts = run(look)
    assert counts == ONCE and checks == [made.key] == [seen.key]
    assert [lookup.artifact for lookup in look.lookups] == [None, seen]
    (made.path / "stray").write_text("x")
    assert run(look)[0] is None and "stray was added" in look.lookups[-1].problem and made.path.is_dir()


def test_what_depends_on_a_result_that_is_not_there_has_no_key_and_is_not_there(context):
    look = Look()
    looking = replace(context, driver=look)
    missing = looking.run(counted, {"n": 1}, {})
    assert looking.run(counted, {"n": 2}, {"number": missing}) is None
    assert [bool(lookup.call.key) for lookup in look.lookups] == [True, False]
