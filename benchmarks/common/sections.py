"""docs/results.md is made of sections, each written by its own command and left alone by the others."""

import re
from pathlib import Path

ORDER = ("methods", "ladder", "saliencies", "starts", "structured", "recovery", "stack", "studies")
"""Beginnings of section names, in the order of the page."""


def put_section(page: Path, name: str, text: str) -> None:
    """Write or replace one section of a page; the page is made where there is none."""
    texts = sections(page.read_text(encoding="utf-8")) if page.is_file() else {}
    texts[name] = text.strip()
    ordered = sorted(texts, key=lambda one: (_place(one), one))
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(f"<!-- section {one} -->\n\n{texts[one]}" for one in ordered) + "\n", encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """Name -> text of the sections of a page; what stands before the first is none of them."""
    parts = re.split(r"^<!-- section (\S+) -->$", text, flags=re.MULTILINE)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _place(name: str) -> int:
    return next((place for place, start in enumerate(ORDER) if name.startswith(start)), len(ORDER))
