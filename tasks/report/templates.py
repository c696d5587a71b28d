"""HTML templates, filled by Jinja: what comes from outside is escaped, and a missing value is an error."""

from pathlib import Path
from typing import Any


def fill_template(file: Path, functions: dict[str, Any] | None = None, **values: Any) -> str:
    """The text of a template with `values` in it, which may call `functions`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(file.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= functions or {}
    return environment.get_template(file.name).render(**values)
