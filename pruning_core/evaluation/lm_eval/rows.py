"""Items of an lm-eval task, read from a JSON Lines file and checked."""

import json
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from pruning_core.errors import InputError
from pruning_core.evaluation.lm_eval.layouts import Row
from pruning_core.text.file import read_utf8

R = TypeVar("R", bound=Row)


def read_rows(path: Path, layout: type[R], name: str = "") -> list[dict[str, Any]]:
    """The layout's fields of each line's object, in the order of the lines; blank lines are skipped.

    Args:
        name: what the file is called in messages; its path when empty.

    Raises:
        InputError: no such file, a line that is no object, or a field that is absent or wrong: the first, with its
            place.
    """
    name = name or str(path)
    # Only "\n" ends a line: JSON strings may hold the other characters at which str.splitlines breaks.
    lines = enumerate(read_utf8(path).split("\n"), start=1)
    rows = [_row(line, layout, f"{name}, line {number}") for number, line in lines if line.strip()]
    if not rows:
        raise InputError(f"{name} has no line with a JSON object; name a file that does")
    return rows


def _row(line: str, layout: type[R], place: str) -> dict[str, Any]:
    try:
        return layout.model_validate(json.loads(line)).model_dump()
    except json.JSONDecodeError as error:
        raise InputError(f"{place} is not JSON ({error.msg} at column {error.colno}); correct the line") from None
    except pydantic.ValidationError as error:
        fields = ", ".join(layout.model_fields)
        raise InputError(f"{place}: {_fault(error)}; {layout.__name__} items have the fields {fields}") from None


def _fault(error: pydantic.ValidationError) -> str:
    """The first thing that is wrong, naming the field."""
    fault = error.errors()[0]
    field = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if fault["type"] == "missing":
        return f"the field {field!r} is missing"
    return f"the field {field!r} is {fault['input']!r} ({message})" if field else message
