"""Dense: the tensor as it is."""

from collections.abc import Mapping
from typing import Literal, Self

import pydantic.dataclasses
from torch import Tensor

from pruning_core.registry import STRICT
from pruning_core.sparse_container.entry import Entry, Matrix, Part


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class Dense(Entry):
    """Of any shape and dtype."""

    encoding: Literal["dense"] = "dense"

    @classmethod
    def of(cls, matrix: Matrix) -> Self:
        """The entry of a tensor."""
        return cls(shape=tuple(matrix.weight.shape), dtype=matrix.dtype)

    def layout(self) -> dict[str, Part]:
        return {"values": Part(self.torch_dtype, self.shape)}

    def encode(self, matrix: Matrix) -> dict[str, Tensor]:
        return {"values": matrix.weight}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        return parts["values"]
