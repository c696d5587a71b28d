"""Formats that a finished variant is exported to: each written by streaming, and read again by what serves it."""

from pathlib import Path
from typing import Any, ClassVar, Protocol

import yaml
from torch import Tensor

from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import InputError
from pruning_core.export.stored.previewed_model import PreviewedModel
from pruning_core.progress import Progress
from pruning_core.registry import Registry


class Tensors(Protocol):
    """The weights of an export, read one at a time under the names and in the layout of the source checkpoint."""

    def names(self) -> list[str]:
        """All tensors, sorted."""
        ...

    def load(self, name: str) -> Tensor:
        """A tensor as the consumer computes with it.

        Raises:
            InputError: no such tensor, or a damaged or crafted file.
        """
        ...


class Format(Protocol):
    """A frozen dataclass registered under its name; its fields are the options of `espalier export --option`.

    The modules of a format import the libraries that write it inside their functions.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]
    """Whether every weight comes back bit for bit."""

    library: ClassVar[str]
    """What serves it, by the name that model hubs know."""
    shell: ClassVar[bool]
    """Whether `command` is for a shell; otherwise it is Python."""
    native: ClassVar[bool]
    """Whether transformers' `from_pretrained` loads it."""

    def foresee(self, model: PreviewedModel) -> None:
        """Look before the model is made.

        Raises:
            InputError: `check` will refuse it, whatever its weights turn out to be; in the same sentence.
        """
        ...

    def check(self, model: StoredModel) -> None:
        """Look before anything is written.

        Raises:
            InputError: the format cannot express the model; the sentence says why and names a format that can.
        """
        ...

    def write(self, model: StoredModel, out: Path, progress: Progress) -> dict[str, Any]:
        """Write the weights into `out`, which holds the tokenizer and config.json already, one tensor at a time.

        It goes on from what an interrupted write of the same export left in `out`, whose files then are byte for byte
        those of a write that was not interrupted; what such a write leaves there has names that begin with a dot, and
        is gone when this returns. `pruning_core.checkpoint.streamed_writer.write_streamed` does so for shards, and
        `pruning_core.checkpoint.appended_file.AppendedFile` for a single file.

        Args:
            progress: called with (tensors done, tensors in all).

        Returns:
            Facts, as JSON: what the format tells of itself.

        Raises:
            InputError: as `check`.
        """
        ...

    def recognises(self, directory: Path) -> bool:
        """Whether the files of a directory are of this format, by their names and config.json alone."""
        ...

    def read(self, directory: Path) -> Tensors:
        """The weights of an export by this package's own reader.

        Raises:
            InputError: files that are missing, truncated or not what they say.
        """
        ...

    def command(self) -> str:
        """Python or shell that loads the export in what serves it; `{path}` stands for the directory."""
        ...


FORMATS: Registry[Format] = Registry("export format", "pruning_core.export")


def format_spec(name: str, options: list[str]) -> dict[str, Any]:
    """The mapping of a format and its options as they are typed, key=value with values as in YAML.

    Raises:
        InputError: an unknown format, or an option that it does not have or takes otherwise.
    """
    spec: dict[str, Any] = {"name": name}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise InputError(f"--option {option!r} is not of the form key=value")
        try:
            spec[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--option {option!r}: the value is not YAML") from None
    FORMATS.build(spec, f"--format {name}")
    return spec
