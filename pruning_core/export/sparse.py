"""Espalier's sparse container: removed weights take a bit or less, and every weight comes back bit for bit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from pruning_core.errors import InputError
from pruning_core.export import FORMATS
from pruning_core.progress import Progress
from pruning_core.sparse_container import INDEX
from pruning_core.sparse_container.choice import Encoding, candidates, smallest
from pruning_core.sparse_container.entry import Entry, Matrix
from pruning_core.sparse_container.reader import SparseContainer
from pruning_core.sparse_container.writer import SparseContainerWriter
from pruning_core.stored_model import StoredModel

CANNOT = {
    "dense": "",
    "bitmask": "it is no matrix of floating point numbers",
    "n_of_m": "some group of its columns holds more weights, or M does not divide them",
    "csr": "it is no matrix of floating point numbers, or has too few weights left for its size",
    "codes": "it has no codes that give its weights bit for bit",
}


@FORMATS.register("sparse")
class Sparse:
    """Sparse safetensors shards and sparse_container.json, which this package reads.

    encoding: auto: of each tensor the one that takes the fewest bytes; otherwise that of the compressed matrices (of a
        model of which nobody knows them: of all matrices with zeros), while the other tensors keep auto.
    n, m: the N:M of encoding n_of_m, both or neither; absent: as the zeros suggest.
    """

    encoding: Encoding = "auto"
    n: Annotated[int, Field(ge=1)] | None = None
    m: Annotated[int, Field(ge=2, le=256)] | None = None
    exact = True
    native = False
    library = "espalier"
    shell = False

    @model_validator(mode="after")
    def _pattern_is_whole(self) -> "Sparse":
        if (self.n is None) != (self.m is None):
            raise ValueError("n and m go together: give both or neither")
        if self.n is not None and self.n >= self.m:
            raise ValueError(f"n:m keeps n of every m inputs, so n must be below m, got {self.n}:{self.m}")
        if self.n is not None and self.encoding not in ("auto", "n_of_m"):
            raise ValueError(f"encoding {self.encoding} has no n and m; remove them or choose n_of_m")
        return self

    def check(self, model: StoredModel) -> None:
        if self.encoding in ("auto", "dense"):
            return
        for name, matrix in _matrices(model):
            self._entry(model, name, matrix)

    def write(self, model: StoredModel, out: Path, progress: Progress) -> dict[str, Any]:
        names = model.names()
        fallbacks = []
        with SparseContainerWriter(out) as writer:
            for done, (name, matrix) in enumerate(_matrices(model), start=1):
                entry, reason = self._entry(model, name, matrix)
                writer.add(name, matrix, entry)
                if reason:
                    fallbacks.append({"tensor": name, "event": "no_codes", "why": reason, "instead": entry.encoding})
                progress(done, len(names))
        return SparseContainer(out).facts() | {"fallbacks": fallbacks}

    def recognises(self, directory: Path) -> bool:
        return (directory / INDEX).is_file()

    def read(self, directory: Path) -> SparseContainer:
        return SparseContainer(directory)

    def command(self) -> str:
        return 'from pruning_core.source import load_model\nmodel = load_model("{path}")'

    def _entry(self, model: StoredModel, name: str, matrix: Matrix) -> tuple[Entry, str]:
        """The encoding of a tensor, and why it is none of codes where it might have been ("" otherwise)."""
        pattern = None if self.n is None else (self.n, self.m)
        encoding = self.encoding if _is_compressed(model, name, matrix) else "auto"
        found = candidates(matrix, encoding, pattern)
        if not found:
            raise InputError(
                f"{name} cannot be written as {encoding}: {CANNOT[encoding]}; choose encoding auto, which takes any"
            )
        reason = ""
        if encoding == "auto" and any(known.stored == name for known in model.quantized):
            if matrix.grid is None:
                reason = "the checkpoint does not store it as [rows, columns]"
            elif not any(entry.encoding == "codes" for entry in found):
                reason = "they do not give its weights bit for bit"
        return smallest(found), reason


def _matrices(model: StoredModel) -> Iterator[tuple[str, Matrix]]:
    """All tensors, one at a time, with what the facts know of them."""
    for name in model.names():
        known = model.whole.get(name)
        grid = model.grid(known) if known else None
        keep = model.keep(known) if grid is not None else None
        yield name, Matrix(model.load(name), grid, keep)


def _is_compressed(model: StoredModel, name: str, matrix: Matrix) -> bool:
    if model.matrices:
        return any(known.stored == name for known in model.matrices)
    return matrix.suits and matrix.count < matrix.weight.numel()
