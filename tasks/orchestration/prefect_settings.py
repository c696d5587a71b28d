"""Prefect's settings, read once when it is imported: quiet, offline, and inside the workspace."""

import os
import sys
from pathlib import Path

from pruning_core.errors import ComputationError

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # A temporary server migrates its database on first use, which takes longer than the default 20 s here.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_API_HOST": "127.0.0.1",
    # Of one request, 14 seconds in all: a server that does not answer by then is lost, and that is told.
    "PREFECT_CLIENT_MAX_RETRIES": "3",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # Prefect's default is pickle.
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
}


def apply(workspace: Path) -> None:
    """Set the environment for Prefect and make its folder; what the user has set already (log level) stays.

    Raises:
        ComputationError: Prefect was imported before, so the settings would be ignored.
    """
    settings = {"PREFECT_HOME": str(Path(workspace).absolute() / ".espalier" / "prefect"), **QUIET}
    missing = [name for name in settings if name not in os.environ]
    if missing and "prefect" in sys.modules:
        raise ComputationError(
            f"prefect was imported before {', '.join(missing)} could be set; apply its settings first"
        )
    os.environ.update({name: settings[name] for name in missing})
    # Prefect makes the last folder of the path only.
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
