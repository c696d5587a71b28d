"""The section `schedule`: what it takes, and the sentence for what it does not."""

import asyncio
from datetime import datetime

import pytest
from cronsim import CronSim

from pruning_core.errors import InputError
from pruning_core.settings.recipe import parse_settings
from pruning_core.settings.schedule import ChampionGate, SizeGate, build_schedule, check_cron

SPARSE = {"saliency": {"name": "magnitude"}, "pattern": {"name": "unstructured"}, "sparsity": 0.5}
KNOWN = ("wanda-50", "sparsegpt-50")


def test_a_whole_section_is_read_and_the_rest_has_defaults():
    gates = {"perplexity": 1.05, "size": {"bitmask": 0.6}, "ledger": 0, "kl": 0.1, "champion": {"margin": 0.01}}
    schedule = build_schedule({"cron": "0 3 * * mon-5", "variants": ["wanda-50"], "gates": gates}, KNOWN)
    assert schedule.gates.size == SizeGate(bitmask=0.6) and schedule.gates.champion == ChampionGate(0.01)
    assert (schedule.timezone, schedule.push, schedule.model) == ("UTC", True, None)
    bare = build_schedule({}, KNOWN)
    assert bare.cron is None and bare.variants is None and bare.gates.champion is None


@pytest.mark.parametrize(("written", "margin"), [(True, 0.0), ({"margin": 0.5}, 0.5), ({}, 0.0)])
def test_the_gate_of_the_champion_is_a_switch_or_a_margin(written, margin: float):
    assert build_schedule({"gates": {"champion": written}}, KNOWN).gates.champion.margin == margin
    assert build_schedule({"gates": {"champion": False}}, KNOWN).gates.champion is None


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (3, "must be a mapping"),
        ({"crn": "* * * * *"}, "did you mean 'cron'"),
        ({"cron": "* * * *"}, "has 4 fields"),
        ({"cron": "61 * * * *"}, "schedule.cron: has a bad minute; write 0 to 59"),
        ({"cron": 5}, "valid string"),
        ({"timezone": "Europe/Pari"}, "did you mean 'Europe/Paris'"),
        ({"variants": ["wanda-5"]}, "did you mean 'wanda-50'"),
        ({"variants": []}, "at least one"),
        ({"variants": ["wanda-50", "wanda-50"]}, "each variant once"),
        ({"model": "org/name"}, "schedule.model"),
        ({"push": 1}, "schedule.push"),
        ({"gates": [1]}, "schedule.gates must be a mapping"),
        ({"gates": {"perplexty": 1}}, "schedule.gates.perplexty is not a known key (did you mean 'perplexity'?)"),
        ({"gates": {"perplexity": 0}}, "schedule.gates.perplexity"),
        ({"gates": {"size": 0.6}}, "say of what"),
        ({"gates": {"size": {}}}, "says of what"),
        ({"gates": {"size": {"stord": 1}}}, "schedule.gates.size.stord is not a known key"),
        ({"gates": {"champion": 3}}, "margin"),
        ({"gates": {"champion": {"margin": -1}}}, "schedule.gates.champion.margin"),
        ({"gates": {"kl": "1e-1"}}, "write 0.1"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(section, said: str):
    with pytest.raises(InputError) as error:
        build_schedule(section, KNOWN)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "* * * * *",
        "*/5 0-6,12 1 jan-mar mon-5",
        "0 3 * * 7",
        "10-50/20 3 1,15 * sun",
        "5/20 3 * * *",
        "0 3 L * *",
        "0 3 L feb *",
        "0 3 * * mon#1,5#3",
        "0 3 29 2 mon",
        "0 3 * JUL/2 *",
    ],
)
def test_prefects_own_schedule_runs_what_is_accepted(text: str):
    """Its parser is another one: what passes here must not be refused by the server."""
    from prefect.server.schemas.schedules import CronSchedule

    schedule = CronSchedule(cron=check_cron(text), timezone="UTC")
    assert schedule.cron == text and len(asyncio.run(schedule.get_dates(3))) == 3


@pytest.mark.parametrize("text", ["0 3 LW * *", "0 3 * * 5L", "0 3 * * 7L", "0 3 L/2 * *"])
def test_what_the_checking_library_reads_and_prefect_does_not_is_refused(text: str):
    from prefect.server.schemas.schedules import CronSchedule

    CronSim(text, datetime(2000, 1, 1))
    with pytest.raises(ValueError):
        CronSchedule(cron=text, timezone="UTC")
    with pytest.raises(ValueError, match="last weekday, which Prefect does not read"):
        check_cron(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("61 * * * *", "bad minute; write 0 to 59"),
        ("* 24 * * *", "bad hour"),
        ("* * 0 * *", "bad day of the month"),
        ("* * * foo *", "bad month"),
        ("* * * * 8", "bad day of the week"),
        ("5/0 * * * *", "bad minute; .* steps such as"),
        ("9-5 * * * *", "bad minute; .* ranges such as 1-5"),
        ("*-5 * * * *", "bad minute; .* ranges such as 1-5"),
        ("1,,2 * * * *", "bad minute"),
        ("0 3 * * L5", "bad day of the week"),
        ("0 3 30 2 *", "bad day of the month; .* one of the months has"),
        ("0 3 30 2 mon", "bad day of the month"),
        ("0 3 1 * mon#1", "# beside a day of the month"),
        ("@daily", "has 1 fields"),
        ("* * * * * *", "has 6 fields"),
    ],
)
def test_a_wrong_cron_names_the_field(text: str, said: str):
    with pytest.raises(ValueError, match=said):
        check_cron(text)


def test_a_gate_on_accuracy_needs_tasks():
    text = {"text": {"name": "stdlib"}}
    settings = {"model": "m", "calibration": text, "evaluation": text, "variants": {"a": SPARSE}}
    with pytest.raises(InputError, match=r"add evaluation\.tasks, or remove the gate"):
        parse_settings(settings | {"schedule": {"gates": {"accuracy": 0.1}}})
