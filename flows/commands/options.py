"""The application, the options that many commands share, and how commands print. Imports nothing heavy."""

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="espalier",
    help="Compress language models as a workflow: cached, versioned, tracked.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of params.yaml, e.g. calibration.sequences=32. @FILE replaces whole sections by those of "
        "a file, e.g. @recipes/papers.yaml.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables and progress bars.")]
RecipeArgument = Annotated[str, typer.Argument(metavar="VARIANT", help="A name under `variants` in params.yaml.")]
VariantArgument = Annotated[str, typer.Argument(help="A name under `variants` in params.yaml, or `dense`.")]


def say(text: str) -> None:
    """Print a line for people."""
    typer.echo(text)


def print_result(result: Any, json_: bool, for_people: Callable[[Any], None]) -> None:
    """Print a result as JSON, or as `for_people` does."""
    if json_:
        as_json(result)
    else:
        for_people(result)


def as_json(value: Any) -> None:
    """Print a value as JSON; records are converted by their `as_json`."""
    typer.echo(json.dumps(value, indent=1, sort_keys=True, default=lambda record: record.as_json()))
