"""SIGKILL at twenty random instants of a sweep: what was published stays, nothing is computed twice, the bits agree."""

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from commands import Finished
from faults import (
    SWEEP,
    Undisturbed,
    begin,
    digests,
    finish,
    kill,
    left_over,
    published,
    seconds_of,
    shown,
    stored,
    tracked,
    under_way,
)

from flows.servers.server_process import wait_until
from tasks.orchestration import temporary_servers

KILLS = 20
ALONE = 5
"""Every so many kills hit a command with a temporary server of its own; the others share one server."""
MODELS = 3
"""The dense model and the variants of the sweep: each has one run in MLflow."""


@dataclass(frozen=True)
class Killed:
    """One kill and what came after it.

    Args:
        instant: seconds after the start.
        at: what was under way.
        lost: seconds of work that was not published.
        again: seconds that the next command took.
    """

    manner: str
    instant: float
    at: str
    lost: float
    again: float


@dataclass(frozen=True)
class Moment:
    """An instant of a run, told by what is published by then: how busy the machine is does not move it.

    Args:
        share: of the run, from 0 to 1.
        starting: seconds before the first step.
    """

    share: float
    starting: float
    undisturbed: Undisturbed

    def wait(self, root: Path, over: Callable[[], bool]) -> None:
        """Return at this instant of the run in `root`, or when the run is over."""
        steps = len(self.undisturbed.labels)
        place = self.share * (steps + 2) - 1
        if place < 0:
            time.sleep((1 + place) * self.starting)
            return
        wait_until(lambda: stored(root) >= int(place) or over(), 300, every=0.005)
        # Steps of some seconds and of a tenth: most of these instants are in the former.
        time.sleep((place - int(place)) * 2 * self.undisturbed.step_seconds / steps)


@pytest.fixture(scope="module")
def commands_of(start_warm, checkout) -> Callable[[Path, bool], tuple[int, Callable[[], Finished]]]:
    """begin(root, alone) -> (process id, wait): a sweep under way."""
    serverless = {name: value for name, value in checkout.items() if name != "PREFECT_API_URL"}

    def run(root: Path, alone: bool) -> tuple[int, Callable[[], Finished]]:
        if alone:
            process = begin(root, *SWEEP, environment=serverless)
            return process.pid, lambda: finish(process, root)
        command = start_warm(root, *SWEEP)
        return command.pid, command.wait

    return run


@pytest.mark.timeout(120 * KILLS)
def test_whatever_the_instant_a_kill_costs_at_most_one_step_and_changes_no_bit(
    shipped, commands_of, undisturbed: Undisturbed, draw: random.Random, figures
):
    starting = {False: undisturbed.seconds, True: _alone(shipped(), commands_of)}
    starting = {alone: max(1.0, seconds - undisturbed.step_seconds) for alone, seconds in starting.items()}
    kills = []
    for number in range(KILLS):
        alone = number % ALONE == 0
        # One instant in each twentieth of the run.
        moment = Moment((number + draw.random()) / KILLS, starting[alone], undisturbed)
        kills.append(_kill(shipped(), commands_of, undisturbed, alone, draw.random() < 0.5, moment))
    lost = [one.lost for one in kills]
    where = Counter(one.at for one in kills)
    figures(
        "kill",
        f"{KILLS} kills, 0 digests differ, 0 published steps computed again; work lost: median "
        f"{statistics.median(lost):.2f} s, most {max(lost):.2f} s of {undisturbed.step_seconds:.1f} s",
        kills=[vars(one) for one in kills],
        where=dict(where),
        sweep_seconds=round(undisturbed.seconds, 1),
        step_seconds=round(undisturbed.step_seconds, 1),
    )


def test_a_sweep_killed_again_and_again_ends_with_the_same_bits(
    shipped, commands_of, undisturbed: Undisturbed, draw: random.Random, figures
):
    root, lives, lost = shipped(), [], []
    # Each life is long enough to get somewhere, and only the last one long enough for the rest.
    while True:
        before, begun = published(root), time.monotonic()
        pid, wait = commands_of(root, False)
        count = len(before) + draw.randrange(2, 9)
        wait_until(lambda n=count, p=pid: stored(root) >= n or not psutil.pid_exists(p), 300, every=0.005)
        time.sleep(draw.random() * undisturbed.step_seconds / len(undisturbed.labels))
        life, now = time.monotonic() - begun, kill(pid, group=False)
        done = wait()
        if done.code == 0:
            break
        lives.append(life)
        lost += [now - began for began in under_way(root).values()]
        assert before.items() <= published(root).items()
    assert digests(root) == undisturbed.digests and not left_over(root)
    figures(
        "kill-chain",
        f"{len(lives)} kills in a row before a run reached its end, 0 digests differ; "
        f"work lost in all {sum(lost):.1f} s",
        lives=[round(life, 1) for life in lives],
        lost=round(sum(lost), 2),
    )


def _alone(root: Path, commands_of) -> float:
    begun = time.monotonic()
    _, wait = commands_of(root, True)
    assert wait().code == 0
    return time.monotonic() - begun


def _kill(root: Path, commands_of, undisturbed: Undisturbed, alone: bool, group: bool, moment: Moment) -> Killed:
    """Kill a sweep, run it again, and hold what is there against the undisturbed run."""
    begun = time.monotonic()
    pid, wait = commands_of(root, alone)
    moment.wait(root, lambda: not psutil.pid_exists(pid))
    instant = time.monotonic() - begun
    now = kill(pid, group and alone)
    wait()
    before, open_work, runs = published(root), under_way(root), tracked(root)
    assert len(open_work) <= 1, "more than one step at a time"
    begun = time.monotonic()
    _, wait = commands_of(root, alone)
    done = wait()
    again = time.monotonic() - begun
    assert done.code == 0, done.err

    kept = {key: one for key, one in published(root).items() if key in before}
    assert kept == before, "what was published is not as it was"
    twice = {undisturbed.labels[key] for key in before} & set(shown(done, "computed"))
    assert not twice, f"published, and computed again: {twice}"
    assert digests(root) == undisturbed.digests
    assert not left_over(root)
    assert len(tracked(root)) == MODELS and {status for _, status in tracked(root)} == {"FINISHED"}
    if alone:
        assert temporary_servers.stop_orphans() == [], "a server outlived two runs"
    lost = sum(max(0.0, now - began) for began in open_work.values())
    bound = max(seconds_of(root, key) for key in undisturbed.labels)
    manner = ("the whole group" if group else "the first process") if alone else "shared server"
    at = _where(open_work, before, undisturbed, any(status == "RUNNING" for _, status in runs))
    print(f"{manner:18} at {instant:5.1f} s: {at:24} lost {lost:4.2f} s, again {again:5.1f} s")
    assert lost <= 3 * bound, "more than one step was lost"
    return Killed(manner, round(instant, 2), at, round(lost, 3), round(again, 2))


def _where(open_work: dict[str, float], before: dict, undisturbed: Undisturbed, recording: bool) -> str:
    for key in open_work:
        words = undisturbed.labels[key].split()
        return next(word for word in ("tokens", "statistics", "block", "model", "evaluation", "speed") if word in words)
    if recording:
        return "recording in MLflow"
    if not before:
        return "before the first step"
    return "between steps" if len(before) < len(undisturbed.labels) else "after the last step"
