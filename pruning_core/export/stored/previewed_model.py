"""A variant before it is made: what its recipe and the headers of its source tell of its files."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig

from pruning_core.checkpoint.layer_facts import LayerFacts
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.model.widths import KEY, BlockWidths, Structure


class PreviewedModel(StoredModel):
    """Its tensors are those of the source, its `matrices` those of the variant to come.

    Scales and zero points are stand-ins that every format can hold: what refuses them refuses something that is known.

    Args:
        directory: of the source.
        layers: as of `StoredModel`, widths as of the source; `removed` is how many weights go at most.
        group_size: columns that share a grid; None: a whole row does.
        symmetric: whether every zero point is the middle code.
        permuted: whether the groups are no runs of columns where there are several.
        narrowed: whether the variant has fewer channels or heads than the source.
        uneven: whether its blocks differ in width.
        scattered: whether weights go wherever they are the least, in no pattern.
    """

    def __init__(
        self,
        directory: Path | str,
        layers: Sequence[LayerFacts] = (),
        *,
        group_size: int | None = None,
        symmetric: bool = False,
        permuted: bool = False,
        narrowed: bool = False,
        uneven: bool = False,
        scattered: bool = False,
    ) -> None:
        super().__init__(directory, layers)
        # What lies beside the source is not of the variant.
        self._masks = self._codes = None
        self.narrowed = narrowed
        self._group_size, self._symmetric, self._permuted = group_size, symmetric, permuted
        self._uneven, self._scattered = uneven, scattered

    @property
    def architecture(self) -> PretrainedConfig:
        config = super().architecture
        if self._uneven:
            blocks = (BlockWidths(),) * config.get_text_config().num_hidden_layers
            setattr(config, KEY, Structure(blocks).facts())
        return config

    def scales(self, matrix: LayerFacts) -> tuple[Tensor, Tensor, Tensor]:
        """As of `StoredModel`, one row of scale and zero for all."""
        group = torch.arange(matrix.columns, dtype=torch.int32) // (self._group_size or matrix.columns)
        scale = torch.ones(1, matrix.code_groups)
        zero = torch.full_like(scale, 2 ** (matrix.code_bits - 1) if self._symmetric else 1)
        return scale, zero, group.flip(0) if self._permuted else group

    def fullest(self, m: int) -> int:
        """How many weights other than zero some m neighbours of the first matrix hold at least; 0: it depends on them.

        By counting, where the source has no zeros. That every m neighbours of a matrix lose the same number, in a
        pattern that does not ask for it, does not happen.
        """
        matrix = self.matrices[0]
        size = matrix.rows * matrix.columns
        kept = size - matrix.removed
        if not kept or self._has_zeros:
            return 0
        alike = kept * m % size == 0
        return -(-kept * m // size) + (alike and self._scattered)

    @cached_property
    def _has_zeros(self) -> bool:
        return not bool(self.load(self.matrices[0].stored).float().all())
