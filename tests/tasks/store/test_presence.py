"""Who uses a store: entered once, for as long as the process lives."""

import os
from pathlib import Path

from tasks.store.locks import is_locked
from tasks.store.users import Presence
from tasks.workspace.workspace import original

ENTER = """
import sys
from pathlib import Path
from tasks.store.users import Presence
Presence(Path(sys.argv[1])).enter()
print("entered", flush=True)
sys.stdin.read()
"""


def test_a_process_counts_from_its_entry_to_its_end_however_it_ends(tmp_path: Path, start):
    presence = Presence(tmp_path)
    presence.enter()
    presence.enter()
    [own] = presence.since()
    process = start(ENTER, tmp_path)
    assert process.stdout.readline() == "entered\n"
    first, second = presence.since()
    assert first == own and second >= own
    process.kill()
    process.wait()
    assert presence.since() == [own] and len(list((tmp_path / "users").iterdir())) == 1


def test_who_enters_takes_away_what_ended_processes_left(tmp_path: Path, start):
    for _ in range(2):
        process = start(ENTER, tmp_path)
        assert process.stdout.readline() == "entered\n"
        process.kill()
        process.wait()
    assert len(list((tmp_path / "users").iterdir())) == 1


def test_what_is_found_counts_as_used_now_and_cannot_be_taken_away_meanwhile(tmp_path: Path):
    presence, file = Presence(tmp_path), tmp_path / "run.json"
    file.write_text("{}")
    os.utime(file, (0, 0))
    with presence.finding(file):
        assert file.stat().st_mtime >= presence.since()[0]
        with presence.finding(file):
            assert is_locked(tmp_path / "locks" / "removal")
    assert not is_locked(tmp_path / "locks" / "removal")


def test_what_is_found_after_the_clock_was_set_back_is_still_of_the_time_of_its_finder(tmp_path: Path):
    presence, file = Presence(tmp_path), tmp_path / "run.json"
    file.write_text("{}")
    presence.enter()
    # As if this process had entered before the clock went back by a day.
    [user] = (tmp_path / "users").iterdir()
    entered = user.stat().st_mtime + 24 * 60 * 60
    os.utime(user, (entered, entered))
    with presence.finding(file):
        pass
    assert file.stat().st_mtime >= entered


def test_a_copy_that_dvc_made_for_an_experiment_is_that_of_its_workspace(tmp_path: Path):
    assert original(tmp_path / ".dvc" / "tmp" / "exps" / "tmp0a1b") == tmp_path
    assert original(tmp_path / ".dvc" / "tmp" / "exps" / "tmp0a1b" / "inner") == tmp_path
    assert original(tmp_path / "exps" / "one") == tmp_path / "exps" / "one"
