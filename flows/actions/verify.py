"""`espalier verify`: hash every stored file, also those whose size, time and inode are unchanged.

Every use of a stored result compares sizes, times and inodes, which no ordinary write keeps, and hashes what differs.
A disk that returns other bytes than were written changes none of them: that takes reading everything.
"""

from collections.abc import Callable
from typing import Any

from flows.console.progress_bars import show_bars
from pruning_core.errors import ComputationError
from tasks.lineage.gc import size_of
from tasks.progress import progress
from tasks.workspace.workspace import Workspace

MB = 1e6


def verify_store(quiet: bool) -> dict[str, Any]:
    """Hash everything that is stored, and set altered results aside.

    Returns:
        intact and altered {"artifacts", "bytes"}; altered also "found": [{"key", "problem", "moved_to"}].
    """
    store = Workspace.open(None).store
    keys = sorted(path.name for path in store.objects.glob("*"))
    intact = {"artifacts": 0, "bytes": 0}
    altered: dict[str, Any] = {"artifacts": 0, "bytes": 0, "found": []}
    with show_bars(quiet):
        shown = progress("reading what is stored")
        for done, key in enumerate(keys):
            shown(done, len(keys))
            size = size_of(store.objects / key)
            artifact, problem = store.check(key, thorough=True)
            if artifact:
                _add(intact, size)
            elif problem and store.find(key, thorough=True) is None and store.events:
                event = store.events[-1]
                _add(altered, size)
                altered["found"].append({"key": key, "problem": problem, "moved_to": event.get("moved_to")})
        shown(len(keys), len(keys))
    return {"intact": intact, "altered": altered}


def print_verification(verification: dict[str, Any], say: Callable[[str], None]) -> None:
    """Print how much is intact, and what was altered."""
    for one in verification["altered"]["found"]:
        say(f"altered    {one['key'][:12]}  {one['problem']}; now {one['moved_to']}")
    intact = verification["intact"]
    say(f"intact     {intact['artifacts']} artifacts, {intact['bytes'] / MB:,.1f} MB")


def require_intact(verification: dict[str, Any]) -> None:
    """Raise ComputationError if something was altered."""
    count, intact = verification["altered"]["artifacts"], verification["intact"]["artifacts"]
    if count:
        raise ComputationError(
            f"{count} of {count + intact} stored results are not what was written, and are set "
            "aside; the next command that needs them computes them anew"
        )


def _add(counts: dict[str, Any], size: int) -> None:
    counts["artifacts"] += 1
    counts["bytes"] += size
