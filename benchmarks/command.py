"""Starting a benchmark's command."""

import sys

import typer

from pruning_core.errors import ComputationError, InputError


def run_command(app: typer.Typer) -> None:
    """Run the command, with errors as one sentence: exit code 2 for wrong input, 1 for a failed run."""
    try:
        app()
    except (InputError, ComputationError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, InputError) else 1)
