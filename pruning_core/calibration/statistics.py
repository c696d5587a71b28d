"""Calibration statistics of a linear layer's inputs: the one place that defines the Hessian H."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from pruning_core.errors import ComputationError
from pruning_core.numerics.finite import all_finite

STRIPS = 6
"""Products that make up one triangle of a Hessian: few enough for full speed, enough to skip most of the other half."""
NARROWEST = 128
"""Rows of the Hessian below which a product gets slow."""
ROWS = 256
"""Tokens that are squared at a time: the squares stay in the cache."""


@dataclass
class LayerStatistics:
    """Second moment of a layer's inputs: H = X^T X / tokens, no mean subtracted.

    Sums are kept unnormalised in float32 beside a token count, so that batches of any size weigh every token alike
    and two accumulators can be merged. With `full=False` only the diagonal is kept (all that Wanda needs).
    """

    in_features: int
    full: bool = True
    tokens: int = 0
    sequences: int = 0
    moment: Tensor | None = field(default=None, repr=False)
    """Unnormalised sum of x x^T, of which only the upper triangle counts: [in, in], or its diagonal [in]; float32."""

    @classmethod
    def from_inputs(cls, inputs: Tensor, full: bool = True) -> Self:
        """Statistics of `inputs`: [sequences, tokens, in] or [tokens, in]."""
        return cls(inputs.shape[-1], full).add(inputs)

    def add(self, inputs: Tensor) -> Self:
        """Accumulate `inputs` ([sequences, tokens, in] or [tokens, in], any float dtype) and return self.

        Raises:
            ValueError: the last dimension is not `in_features`.
        """
        if inputs.shape[-1] != self.in_features:
            raise ValueError(f"statistics of {self.in_features} inputs cannot take {inputs.shape[-1]}")
        rows = inputs.reshape(-1, self.in_features)
        if not rows.is_cuda:
            rows = rows.float()
        if self.moment is None:
            shape = (self.in_features,) * (2 if self.full else 1)
            self.moment = torch.zeros(shape, dtype=torch.float32, device=inputs.device)
        if self.full:
            _add_outer(self.moment, rows)
        else:
            for part in rows.split(ROWS if not rows.is_cuda else len(rows)):
                self.moment += part.float().square().sum(dim=0)
        self.tokens += rows.shape[0]
        self.sequences += inputs.shape[0] if inputs.dim() == 3 else 1
        return self

    @property
    def sums(self) -> Tensor:
        """`moment`, of at least one batch.

        Raises:
            ComputationError: nothing was accumulated.
        """
        if self.moment is None:
            raise ComputationError("the layer saw no calibration tokens")
        return self.moment

    def hessian(self) -> Tensor:
        """[in, in] float32, a copy: X^T X / tokens.

        Raises:
            ComputationError: nothing was accumulated, only the diagonal was kept, or an entry is not finite.
        """
        if not self.full:
            raise ComputationError("only the diagonal of the Hessian was collected; this method needs all of it")
        return self._normalised()

    def hessian_diag(self) -> Tensor:
        """[in] float32: mean square of each input."""
        return self._normalised().diagonal().clone() if self.full else self._normalised()

    def _normalised(self) -> Tensor:
        if self.moment is None or self.tokens == 0:
            raise ComputationError("the layer saw no calibration tokens")
        if not all_finite(self.moment):
            raise ComputationError(
                "the layer's inputs hold NaN or inf; check the model in float32 or bfloat16 before compressing it"
            )
        mean = self.moment / self.tokens
        if self.full:
            _mirror(mean)
        return mean


def _strips(columns: int) -> Iterator[tuple[int, int]]:
    width = max(NARROWEST, -(-columns // STRIPS))
    for start in range(0, columns, width):
        yield start, min(start + width, columns)


def _add_outer(moment: Tensor, rows: Tensor) -> None:
    """moment += rows^T rows in its upper triangle, by strips: about half the work of the whole product."""
    for start, stop in _strips(len(moment)):
        part = moment[start:stop, start:]
        if rows.dtype == moment.dtype:
            part.addmm_(rows[:, start:stop].T, rows[:, start:])
        else:
            # Products of two bfloat16 or float16 numbers are exact in float32, in which a GPU's tensor cores add them.
            part += torch.mm(rows[:, start:stop].T, rows[:, start:], out_dtype=moment.dtype)


def _mirror(matrix: Tensor) -> None:
    """Copy the upper triangle onto the lower one, in place."""
    for start, stop in _strips(len(matrix)):
        corner = matrix[start:stop, start:stop]
        corner.copy_(corner.triu() + corner.triu(1).T)
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T
