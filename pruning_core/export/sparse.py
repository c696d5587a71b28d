"""Espalier's sparse container: removed weights take a bit or less, and every weight comes back bit for bit."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from pruning_core.checkpoint.layer_facts import LayerFacts
from pruning_core.checkpoint.shard_files import SHARD_BYTES
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.checkpoint.streamed_writer import write_streamed
from pruning_core.errors import InputError
from pruning_core.export import FORMATS
from pruning_core.export.stored.previewed_model import PreviewedModel
from pruning_core.progress import Progress
from pruning_core.sparse_container import INDEX
from pruning_core.sparse_container.choice import Encoding, Pattern, candidates, smallest
from pruning_core.sparse_container.entry import Entry, Matrix
from pruning_core.sparse_container.n_of_m import GROUPS
from pruning_core.sparse_container.reader import SparseContainer
from pruning_core.sparse_container.writer import SparseContainerWriter

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
    max_shard_bytes: of a shard, which is in memory whole while it is filled.
    """

    encoding: Encoding = "auto"
    n: Annotated[int, Field(ge=1)] | None = None
    m: Annotated[int, Field(ge=2, le=256)] | None = None
    max_shard_bytes: Annotated[int, Field(ge=1)] = SHARD_BYTES
    exact = True
    native = False
    library = "espalier"
    shell = False

    @model_validator(mode="after")
    def _pattern_is_whole(self) -> "Sparse":
        if (self.n is None) != (self.m is None):
            raise ValueError("n and m go together: give both or neither")
        if self.n is not None and self.m is not None and self.n >= self.m:
            raise ValueError(f"n:m keeps n of every m inputs, so n must be below m, got {self.n}:{self.m}")
        if self.n is not None and self.encoding not in ("auto", "n_of_m"):
            raise ValueError(f"encoding {self.encoding} has no n and m; remove them or choose n_of_m")
        return self

    def foresee(self, model: PreviewedModel) -> None:
        for matrix in sorted(model.matrices, key=lambda one: one.stored):
            if not self._may_hold(model, matrix):
                raise self._refused(matrix.stored, self.encoding)

    def check(self, model: StoredModel) -> None:
        if self.encoding in ("auto", "dense"):
            return
        for name in model.names():
            self._entry(model, name, _matrix(model, name))

    def write(self, model: StoredModel, out: Path, progress: Progress) -> dict[str, Any]:
        def encoded(name: str) -> tuple[Matrix, Entry, dict[str, str] | None]:
            matrix = _matrix(model, name)
            entry, reason = self._entry(model, name, matrix)
            fallback = {"tensor": name, "event": "no_codes", "why": reason, "instead": entry.encoding}
            return matrix, entry, fallback if reason else None

        writer = SparseContainerWriter(out, self.max_shard_bytes, resume=True)
        write_streamed(model.names(), writer, encoded, progress)
        return SparseContainer(out).facts() | {"fallbacks": list(writer.notes().values())}

    def recognises(self, directory: Path) -> bool:
        return (directory / INDEX).is_file()

    def read(self, directory: Path) -> SparseContainer:
        return SparseContainer(directory)

    def command(self) -> str:
        return 'from pruning_core.source import load_model\nmodel = load_model("{path}")'

    @property
    def _pattern(self) -> Pattern | None:
        return None if self.n is None or self.m is None else (self.n, self.m)

    def _entry(self, model: StoredModel, name: str, matrix: Matrix) -> tuple[Entry, str]:
        """The encoding of a tensor, and why it is none of codes where it might have been ("" otherwise)."""
        encoding = self.encoding if _is_compressed(model, name, matrix) else "auto"
        entries = candidates(matrix, encoding, self._pattern)
        if not entries:
            raise self._refused(name, encoding)
        reason = ""
        if encoding == "auto" and any(one.stored == name for one in model.quantized):
            if matrix.grid is None:
                reason = "the checkpoint does not store it as [rows, columns]"
            elif not any(entry.encoding == "codes" for entry in entries):
                reason = "they do not give its weights bit for bit"
        return smallest(entries), reason

    def _may_hold(self, model: PreviewedModel, matrix: LayerFacts) -> bool:
        """Whether the encoding takes a matrix with some weights or other."""
        if self.encoding == "codes":
            return matrix.stored in model.whole and matrix.bits is not None
        if self.encoding != "n_of_m" or model.narrowed:
            return True
        columns = model.checkpoint.shape(matrix.stored)[-1]
        patterns = [(m - 1, m) for m in GROUPS] if self._pattern is None else [self._pattern]
        return any(columns % m == 0 and model.fullest(m) <= n for n, m in patterns)

    def _refused(self, name: str, encoding: str) -> InputError:
        return InputError(
            f"{name} cannot be written as {encoding}: {CANNOT[encoding]}; choose encoding auto, which takes any"
        )


def _matrix(model: StoredModel, name: str) -> Matrix:
    """A tensor with what the facts know of it."""
    stored = model.whole.get(name)
    if stored is None or (grid := model.grid(stored)) is None:
        return Matrix(model.load(name))
    return Matrix(model.load(name), grid, model.keep(stored))


def _is_compressed(model: StoredModel, name: str, matrix: Matrix) -> bool:
    if model.matrices:
        return any(one.stored == name for one in model.matrices)
    return matrix.suits and matrix.count < matrix.weight.numel()
