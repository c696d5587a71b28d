"""Which processes of this machine have a file open."""

import contextlib
from pathlib import Path

import psutil

LONGEST = 60


def holders(path: Path) -> list[str]:
    """ "process 123 (espalier sweep ...)" for each of them that may be looked at, the first started first."""
    absolute, users = str(path.resolve()), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(file.path == absolute for file in process.open_files()):
                command = " ".join([Path(part).name if part.startswith("/") else part for part in process.cmdline()])
                shown = command if len(command) <= LONGEST else f"{command[:LONGEST]}..."
                users.append((process.create_time(), process.pid, shown))
    return [f"process {pid} ({shown})" for _, pid, shown in sorted(users)]
