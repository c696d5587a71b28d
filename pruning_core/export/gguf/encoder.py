"""The tensors of a model as a GGUF file has them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig

from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import InputError
from pruning_core.export.gguf.architecture import architecture_keys, check_architecture, gguf_name, row_order
from pruning_core.export.gguf.blocks import BLOCK, carried
from pruning_core.export.packing.single_file import tensor_facts

PLAIN = ("f32", "f16", "bf16")


@dataclass(frozen=True)
class Encoder:
    """Tensors as bytes of their types.

    type: of the matrices of the blocks.
    """

    model: StoredModel
    config: PretrainedConfig
    type: str

    @cached_property
    def architecture(self) -> str:
        """llama.cpp's name of it."""
        return check_architecture(self.config)

    @cached_property
    def keys(self) -> dict[str, Any]:
        """Of the architecture, without its prefix."""
        return architecture_keys(self.config)

    def type_of(self, name: str) -> str:
        """Of a tensor of the checkpoint."""
        shape = self.model.checkpoint.shape(name)
        if len(shape) == 1:
            return "f32"
        inside = gguf_name(name).startswith("blk.")
        if self.type in PLAIN or (inside and shape[-1] % BLOCK == 0):
            return self.type
        return "f16"

    def encoded(self, name: str) -> tuple[np.ndarray, dict[str, Any]]:
        """(array as the file has it, facts on it as `tensor_facts` tells them).

        Raises:
            InputError: weights that the type cannot hold.
        """
        from gguf import GGMLQuantizationType, quants

        data, weight, has_own_codes = self._bytes_of(name)
        kind = self.type_of(name)
        after = quants.dequantize(data, GGMLQuantizationType[kind.upper()]).reshape(weight.shape) == 0
        return data, tensor_facts(kind, has_own_codes, weight.numpy() == 0, after)

    def _bytes_of(self, name: str) -> tuple[np.ndarray, Tensor, bool]:
        """(array as the file has it, float32 weight in that order of rows, whether it holds the variant's codes)."""
        kind, grid = self.type_of(name), None
        if name in self.model.whole:
            grid = self.model.grid(self.model.whole[name])
        weight = grid.weight if grid else self.model.load(name).float()
        blocks = carried(grid, kind) if grid else None
        data = _rounded(weight, kind, name) if blocks is None else blocks
        heads = (self.keys[f"attention.head_count{kind}"] for kind in ("", "_kv"))
        order = row_order(self.architecture, gguf_name(name), len(data), *heads)
        if order is not None:
            data, weight = data[order], weight[torch.from_numpy(order)]
        return data, weight, blocks is not None


def _rounded(weight: Tensor, kind: str, name: str) -> np.ndarray:
    from gguf import GGMLQuantizationType, quants

    # What does not fit into float16 becomes infinite, and is refused below.
    with np.errstate(over="ignore", invalid="ignore"):
        data = quants.quantize(np.ascontiguousarray(weight.numpy()), GGMLQuantizationType[kind.upper()])
        finite = np.isfinite(quants.dequantize(data, GGMLQuantizationType[kind.upper()])).all()
    if not finite:
        raise InputError(f"{kind} cannot hold the weights of {name}; use --option type=f32 or bf16")
    return data
