"""A local JSON Lines file as a text."""

import json
from pathlib import Path

from pruning_core.errors import InputError
from pruning_core.text import TEXTS, Documents
from pruning_core.text.file import read_utf8


@TEXTS.register("jsonl")
class JsonLines:
    """One document per line: the string `field` of the line's JSON object. Blank lines are skipped.

    Args:
        path: the file, UTF-8.
        field: key of the text in every object.
        separator: put between documents where they are joined.

    Raises:
        InputError: no such file; not UTF-8; a line that is no object with that string (named), or no line.
    """

    path: str
    field: str = "text"
    separator: str = "\n\n"

    def read(self, folder: Path = Path()) -> Documents:
        """The documents in the order of their lines."""
        # Only "\n" ends a line: JSON strings may hold the other characters at which str.splitlines breaks.
        lines = read_utf8(folder / self.path).split("\n")
        texts = tuple(self._document(number, line) for number, line in enumerate(lines, start=1) if line.strip())
        if not texts:
            raise InputError(f"{self.path} has no line with a JSON object; name a file that does")
        source = {"name": "jsonl", "path": self.path, "field": self.field, "documents": len(texts)}
        return Documents(texts, self.separator, source)

    def _document(self, number: int, line: str) -> str:
        place = f"{self.path}, line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{place} is not JSON ({error.msg} at column {error.colno}); correct the line") from None
        if not isinstance(entry, dict):
            raise InputError(f'{place} is not a JSON object; write one such as {{"{self.field}": ...}}')
        if self.field not in entry:
            fields = ", ".join(entry) or "none"
            raise InputError(f"{place} has no field {self.field!r} (its fields: {fields}); set field to the text's key")
        text = entry[self.field]
        if not isinstance(text, str):
            raise InputError(f"{place}: field {self.field!r} is not a string; set field to the text's key")
        return text
