"""Two to four flows and `dvc repro` at once over one store: every step computed once in all, one run of MLflow each."""

import time
from collections import Counter
from pathlib import Path

import pytest
from commands import start
from faults import SWEEP, digests, left_over, manifests, shown, tracked

SET = ("--set", "variants.wanda-50.sparsity=0.6")
CROWDS = {
    2: [("compare",), ("compare",)],
    3: [("compare",), ("compress", "wanda-50"), SWEEP],
    4: [("compare",), SWEEP, ("compress", "wanda-50", *SET), ("compress", "sparsegpt-50")],
}
"""The same variants, other ones, and the same variants under other names."""


@pytest.fixture
def repository(shipped, as_repository) -> Path:
    """The shipped model's workspace under git and DVC."""
    return as_repository(shipped())


@pytest.mark.parametrize("count", CROWDS)
def test_flows_and_repro_at_once_compute_every_step_once_and_agree(
    count: int, repository: Path, undisturbed, start_warm, checkout, figures, tmp_path: Path
):
    begun = time.monotonic()
    output = [tmp_path / str(number) for number in range(count + 1)]
    for folder in output:
        folder.mkdir()
    repro = start(["dvc", "repro"], repository, output[-1], checkout)
    flows = [start_warm(repository, *arguments) for arguments in CROWDS[count]]
    done = [command.wait(400) for command in flows]
    reproduced = [repro.wait(400)]
    # DVC does not wait: it refuses a stage whose outputs a flow records in that instant.
    while reproduced[-1].code and "busy" in reproduced[-1].err and len(reproduced) < 5:
        reproduced.append(start(["dvc", "repro"], repository, output[-1], checkout).wait(400))
    took = time.monotonic() - begun
    assert [one.code for one in done] == [0] * count, [one.err[-2000:] for one in done]
    assert reproduced[-1].code == 0, reproduced[-1]

    steps = Counter(step for one in done for step in shown(one, "computed"))
    steps += Counter(
        line.removeprefix("completed ")
        for one in reproduced
        for line in one.out.splitlines()
        if line.startswith("completed ")
    )
    stored = manifests(repository)
    twice = sum(steps.values()) - len(stored)
    assert twice == 0, (steps, len(stored))
    stored_digests = digests(repository)
    assert all(stored_digests[key] == digest for key, digest in undisturbed.digests.items() if key in stored_digests)
    assert len(stored_digests.keys() & undisturbed.digests.keys()) > 10
    runs = Counter(tracked(repository))
    assert {status for _, status in runs} == {"FINISHED"}
    assert not left_over(repository)
    waits = sum("waiting for" in one.err for one in done)
    figures(
        f"crowd-{count}",
        f"{count} flows and `dvc repro` at once: {sum(steps.values())} steps computed for {len(stored)} results, "
        f"0 errors, 0 digests differ, {sum(runs.values())} runs in MLflow, {took:.0f} s",
        flows=[" ".join(arguments) for arguments in CROWDS[count]],
        computed=sum(steps.values()),
        stored=len(stored),
        runs={name: number for (name, _), number in runs.items()},
        seconds=round(took, 1),
        waits=waits,
        refusals=len(reproduced) - 1,
    )
