"""A local text file as a text."""

from pathlib import Path

from pruning_core.errors import InputError
from pruning_core.text import TEXTS, Documents


@TEXTS.register("file")
class File:
    """A UTF-8 file, line ends as "\\n".

    Args:
        path: the file.
        separator: string between the documents of the file, such as "\\n\\n"; None: it is one document.

    Raises:
        InputError: no such file, not UTF-8 (names the line), or nothing but white space.
    """

    path: str
    separator: str | None = None

    def __post_init__(self) -> None:
        if self.separator == "":
            raise InputError("separator must not be empty; leave it out to read the file as one document")

    def read(self, folder: Path = Path()) -> Documents:
        """The file's documents; joined again they are the file."""
        text = read_utf8(folder / self.path)
        if not text.strip():
            raise InputError(f"{self.path} holds no text; name a file that does")
        texts = (text,) if self.separator is None else tuple(text.split(self.separator))
        source = {"name": "file", "path": self.path, "documents": len(texts)}
        return Documents(texts, self.separator or "\n\n", source)


def read_utf8(path: Path) -> str:
    """The text of a UTF-8 file, line ends as "\\n", without a byte order mark; InputError otherwise."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; name a readable text file") from None
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} is not UTF-8 in line {line} (byte {error.start} is 0x{data[error.start]:02x}); convert"
        ) from None
