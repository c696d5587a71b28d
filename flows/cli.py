"""The command line. Heavy packages are imported inside the commands, so that --help answers at once."""

import os
import sys
from pathlib import Path

from flows.commands import keep, look, make
from flows.commands.options import app

# Importing a module of commands enters its commands, in the order of --help.
COMMANDS = (make, look, keep)


def main() -> None:
    """Run the command line: exit code 2 for wrong input, 1 for a failed computation, one sentence each."""
    from pruning_core.errors import ComputationError, InputError

    for name, value in SAFE.items():
        os.environ.setdefault(name, value)
    try:
        _run_alone_or_together()
    except InputError as error:
        _fail(error, 2)
    except ComputationError as error:
        from flows.launch import ServerLost

        _fail(error, 1, at_once=isinstance(error, ServerLost))
    except OSError as error:
        from tasks.store.temporary_dirs import full_disk

        # Reports, records and logs are written outside the steps, which tell it themselves.
        sentence = full_disk(error, Path.cwd())
        if sentence is None:
            raise
        _fail(sentence, 2)
    finally:
        # Typer turns Ctrl-C into an exit code without a word, Prefect at some instants into an error of its own.
        if _was_interrupted(sys.exc_info()[1]):
            _fail("stopped; what was done is stored, and the same command goes on from there", INTERRUPTED)


def _run_alone_or_together() -> None:
    """Run the command; of the processes that `torchrun` started only the first does, and the others follow it."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        app(standalone_mode=True)
        return
    from tasks.parallel import process_group

    process_group.join()
    if process_group.rank():
        process_group.follow()
        return
    # A command that failed lets nobody go on: torchrun stops the others.
    app(standalone_mode=False)
    process_group.stop()


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether `error` was raised while a Ctrl-C was handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _fail(error: Exception | str, code: int, at_once: bool = False) -> None:
    print(f"espalier: {error}", file=sys.stderr, flush=True)
    if at_once:
        # Prefect would wait seconds for each event that its lost server does not take. What is stored survives any end.
        os._exit(code)
    sys.exit(code)


INTERRUPTED = 130
"""The exit code of a command that was stopped by Ctrl-C."""

SAFE = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    # Prefect would print the traceback of an error that this command line tells in one sentence.
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    # Prefect's event worker would warn, on the root logger, that it still sends events when the command ends.
    "PREFECT_LOGGING_ROOT_LEVEL": "ERROR",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    # Of its workers in the background, which would tell of every event that a lost server does not take.
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Telemetry off and quiet libraries; what the user has set stays."""

if __name__ == "__main__":
    main()
