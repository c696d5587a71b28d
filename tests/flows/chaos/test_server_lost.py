"""Prefect's server killed in the middle of a sweep: one sentence, what was done stays, and the next command goes on."""

import random
import time
from pathlib import Path

import psutil
import pytest
from faults import SWEEP, Undisturbed, begin, digests, finish, left_over, published, sentences, shown

from flows.servers import ui_servers
from flows.servers.server_process import wait_until
from tasks.orchestration.temporary_servers import SERVER


@pytest.mark.parametrize("kind", ["temporary", "espalier up"])
def test_a_lost_server_is_told_and_the_next_command_goes_on(
    kind: str, shipped, undisturbed: Undisturbed, checkout, draw: random.Random, figures
):
    root = shipped()
    serverless = {name: value for name, value in checkout.items() if name != "PREFECT_API_URL"}
    if kind == "espalier up":
        ui_servers.start(root, ["prefect"])
    process = begin(root, *SWEEP, environment=serverless)
    count = draw.randrange(4, len(undisturbed.labels) // 2)
    assert wait_until(lambda: len(published(root)) >= count or process.poll() is not None, 180, every=0.02)
    for server in _servers(root, process.pid, kind):
        server.kill()
    begun = time.monotonic()
    lost = finish(process, root)
    waited = time.monotonic() - begun
    assert lost.code == 1 and "Traceback" not in lost.err, lost
    [sentence] = sentences(lost)
    assert "Prefect's server stopped answering" in sentence
    before = {undisturbed.labels[key] for key in published(root)}

    done = finish(begin(root, *SWEEP, environment=serverless), root)
    ui_servers.stop(root)
    assert done.code == 0, done.err
    assert "was left by a process that is gone: Crashed" in done.err
    assert not before & set(shown(done, "computed"))
    assert digests(root) == undisturbed.digests and not left_over(root)
    figures(
        f"server-{kind.rsplit(maxsplit=1)[-1]}",
        f"killed after {count} steps: one sentence {waited:.0f} s later, {len(before)} steps kept, 0 computed again, "
        "0 digests differ after the next command",
        after=count,
        kept=len(before),
        told_after=round(waited, 1),
    )


def _servers(root: Path, pid: int, kind: str) -> list[psutil.Process]:
    """The processes of the server that the run uses."""
    if kind == "espalier up":
        first = psutil.Process(ui_servers.status(root)["prefect"]["pid"])
        return [first, *first.children(recursive=True)]
    family = psutil.Process(pid).children(recursive=True)
    servers = [process for process in family if SERVER in process.cmdline()]
    assert servers, "the run has no temporary server"
    return servers
