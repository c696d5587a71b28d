"""A compressed model in its directory: tensors, masks, codes and grids, read one at a time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from pruning_core.checkpoint.bit_masks import unpack_mask
from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.checkpoint.file_names import CODES, MASKS
from pruning_core.checkpoint.layer_facts import LayerFacts
from pruning_core.checkpoint.model_files import read_config
from pruning_core.errors import InputError, required


@dataclass(frozen=True)
class StoredGrid:
    """The integers of a quantized matrix: weight = scale[:, group] * (codes - zero[:, group])."""

    codes: Tensor = field(repr=False)
    """[rows, columns] uint8; of a removed weight the zero point of its grid."""
    scale: Tensor = field(repr=False)
    """[rows, groups] float32."""
    zero: Tensor = field(repr=False)
    """[rows, groups] float32 holding integers within the codes."""
    group: Tensor = field(repr=False)
    """[columns] int32: the grid of each column."""
    bits: int = 8

    @property
    def weight(self) -> Tensor:
        """[rows, columns] float32."""
        group = self.group.long()
        return self.scale[:, group] * (self.codes.float() - self.zero[:, group])


class StoredModel:
    """The model directory of a variant, with the facts of its matrices.

    Args:
        directory: Hugging Face directory; masks.safetensors and quantized.safetensors beside the weights where the
            variant has them.
        layers: of the variant's facts; none of a dense model.

    Raises:
        InputError: no model, or not the one that `layers` describes.
    """

    def __init__(self, directory: Path | str, layers: Sequence[LayerFacts] = ()) -> None:
        self.directory = Path(directory)
        self.checkpoint = Checkpoint(self.directory)
        self.matrices = tuple(layers)
        for matrix in self.matrices:
            self.checkpoint.shape(matrix.stored)
        self._masks = self._beside(MASKS)
        self._codes = self._beside(CODES)

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json."""
        config: dict[str, Any] = json.loads((self.directory / "config.json").read_text(encoding="utf-8"))
        return config

    @property
    def architecture(self) -> PretrainedConfig:
        """The same as transformers reads it; InputError where it cannot."""
        return read_config(self.directory)

    @cached_property
    def quantized(self) -> tuple[LayerFacts, ...]:
        """The matrices that have codes."""
        return tuple(matrix for matrix in self.matrices if matrix.bits is not None)

    @cached_property
    def whole(self) -> dict[str, LayerFacts]:
        """Stored name -> matrix, of those that are a tensor [rows, columns] of their own.

        Not among them: parts of fused experts, and all matrices of a model that stores them as [inputs, outputs]
        (GPT-2's Conv1D).
        """
        shapes = {matrix: self.checkpoint.shape(matrix.stored) for matrix in self.matrices}
        # Square ones do not tell which way they lie, but no model lays some one way and some the other.
        if any(shape == (one.columns, one.rows) != (one.rows, one.columns) for one, shape in shapes.items()):
            return {}
        return {one.stored: one for one, shape in shapes.items() if shape == (one.rows, one.columns)}

    def names(self) -> list[str]:
        """All tensors of the weights files, sorted."""
        return self.checkpoint.names()

    def load(self, name: str) -> Tensor:
        """A tensor of the weights files, as stored."""
        return self.checkpoint.load(name)

    def keep(self, matrix: LayerFacts) -> Tensor | None:
        """[rows, columns] bool, True where a weight survives; None where the variant has no masks."""
        if self._masks is None:
            return None
        return unpack_mask(self._masks.load(matrix.name), matrix.columns)

    def quantized_grid(self, matrix: LayerFacts) -> StoredGrid:
        """The codes and grids of a matrix that has them."""
        return required(self.grid(matrix), f"the codes of {matrix.name}")

    def grid(self, matrix: LayerFacts) -> StoredGrid | None:
        """The codes of a matrix; None where it is not quantized.

        Raises:
            InputError: the codes are missing.
        """
        if matrix.bits is None:
            return None
        return StoredGrid(self._code_part(matrix, "codes"), *self.scales(matrix), bits=matrix.bits)

    def scales(self, matrix: LayerFacts) -> tuple[Tensor, Tensor, Tensor]:
        """(scale, zero, group) of a quantized matrix as `StoredGrid` has them, without reading its codes.

        Raises:
            InputError: they are missing.
        """
        return self._code_part(matrix, "scale"), self._code_part(matrix, "zero"), self._code_part(matrix, "group")

    def _code_part(self, matrix: LayerFacts, part: str) -> Tensor:
        if self._codes is None:
            raise InputError(f"{self.directory} has no {CODES}, which holds the codes of {matrix.name}")
        return self._codes.load(f"{matrix.name}.{part}")

    def _beside(self, file: str) -> Checkpoint | None:
        return Checkpoint(self.directory, file) if (self.directory / file).is_file() else None
