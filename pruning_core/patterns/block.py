"""Block sparsity: whole tiles of a matrix go."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from pruning_core.column_sweep import Choice
from pruning_core.numerics.selection import rounded_count
from pruning_core.patterns import PATTERNS


@PATTERNS.register("block")
class BlockSparsity:
    """Block sparsity: tiles of `rows` x `columns` weights with the lowest mean score go, from the lowest up.

    Tiles at ragged edges are smaller and compete by their mean. The matrix is never denser than asked, and sparser by
    less than one tile.
    """

    rows: Annotated[int, Field(ge=1)]
    columns: Annotated[int, Field(ge=1)]
    takes_sparsity = True

    def check(self, in_features: int) -> None:
        """Any width will do: the last tiles are smaller."""

    def column_sweep_choice(self, sparsity: float) -> Choice | None:
        return None

    def removed(self, score: Tensor, sparsity: float, block: int) -> Tensor:
        tile = self._tile_of(score.shape, score.device)
        count = int(tile.max()) + 1
        area = torch.zeros(count, dtype=torch.float64, device=score.device)
        area.scatter_add_(0, tile.flatten(), torch.ones(score.numel(), dtype=torch.float64, device=score.device))
        mean = torch.zeros_like(area).scatter_add_(0, tile.flatten(), score.double().flatten()) / area
        order = mean.argsort(stable=True)
        before = area[order].cumsum(0) - area[order]
        gone = torch.zeros(count, dtype=torch.bool, device=score.device)
        gone[order] = before < rounded_count(score.numel(), sparsity)
        return gone[tile]

    def fault(self, keep: Tensor, sparsity: float) -> str | None:
        tile = self._tile_of(keep.shape, keep.device).flatten()
        count = int(tile.max()) + 1
        kept = torch.zeros(count, dtype=torch.long, device=keep.device).scatter_add_(0, tile, keep.flatten().long())
        area = torch.bincount(tile, minlength=count)
        broken = int(((kept != 0) & (kept != area)).sum())
        if broken:
            return f"{broken} tiles of {self.rows}x{self.columns} are neither whole nor empty"
        over = int((~keep).sum()) - rounded_count(keep.numel(), sparsity)
        fits = 0 <= over < self.rows * self.columns
        return None if fits else f"{over} weights were removed beyond the budget, a tile has {self.rows * self.columns}"

    def _tile_of(self, shape: torch.Size, device: torch.device) -> Tensor:
        """[rows, columns] int64: number of the tile that each weight is in."""
        across = -(-shape[1] // self.columns)
        row = torch.arange(shape[0], device=device) // self.rows
        column = torch.arange(shape[1], device=device) // self.columns
        return row[:, None] * across + column
