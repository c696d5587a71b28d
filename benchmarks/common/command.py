"""Starting a benchmark's command, and the options that several of them take."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common.sections import put_section
from pruning_core.errors import ComputationError, InputError

OutOption = Annotated[Path, typer.Option(help="The page; the figures go beside it.")]
SettingsOption = Annotated[
    Path, typer.Option(help="Sections that take the place of those in params.yaml: calibration, evaluation.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key on top of that.")
]
SeedsOption = Annotated[int, typer.Option(min=1, help="Draws of the calibration and training text.")]
RatioOption = Annotated[list[float] | None, typer.Option(help="Shares of all parameters to remove; may be repeated.")]
ImportanceOption = Annotated[
    list[str] | None, typer.Option(help="Importances, by name or the beginning of it; may be repeated.")
]
TrainingOption = Annotated[
    str,
    typer.Option(
        metavar="MAPPING",
        help="Keys of recovery other than the budget's, such as {steps: 200, data: {sequences: 832}}.",
    ),
]


def run_command(app: typer.Typer) -> None:
    """Run the command, with errors as one sentence: exit code 2 for wrong input, 1 for a failed run."""
    try:
        app()
    except (InputError, ComputationError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, InputError) else 1)


def write_section(page: Path, name: str, text: str, figures: Mapping[str, Any]) -> None:
    """Put a section on its page, and what it was made of as JSON beside the page under the section's name."""
    put_section(page, name, text)
    page.with_name(f"{page.stem}-{name}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"page       {page}")
