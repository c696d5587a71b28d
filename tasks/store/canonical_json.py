"""One spelling for every JSON value, so that equal values have equal digests on every machine."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from pruning_core.checkpoint.durable_files import replace_bytes
from pruning_core.errors import InputError


def canonical(value: Any, where: str = "value") -> str:
    """The JSON text of `value` with sorted keys and no spaces; floats as their shortest exact repr.

    Raises:
        InputError: something in it is no JSON (a path, a date, NaN, a key that is not text); it is named.
    """
    check_json(value, where)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def check_json(value: Any, where: str) -> None:
    """Refuse what JSON would change silently: other types, non-finite numbers, keys that are not text."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(f"{where} has the key {key!r} where text is needed; put it in quotes")
            check_json(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            check_json(item, f"{where}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} is {value!r}; only finite numbers are allowed, give one")
    elif value is not None and not isinstance(value, (str, int, float)):
        raise InputError(
            f"{where} is a {type(value).__name__} ({value!r}); only JSON values are allowed, write it as text"
        )


def plain(value: Any, where: str = "value") -> Any:
    """A deep copy of `value` as it comes back from JSON (tuples become lists)."""
    return json.loads(canonical(value, where))


def digest_of(value: Any, where: str = "value") -> str:
    """sha256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical(value, where).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` for people to read, by rename, so that a reader never sees half a file.

    The name of the temporary file holds the process and thread id: concurrent writers do not meet.
    """
    check_json(value, path.name)
    replace_bytes(path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())
