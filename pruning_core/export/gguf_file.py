"""A GGUF file, which llama.cpp runs: the same zeros, packed as blocks of 32 weights or as plain numbers."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig

from pruning_core.errors import InputError
from pruning_core.export import FORMATS
from pruning_core.export.gguf_architecture import (
    ROPE_FREQUENCIES,
    architecture_keys,
    check_architecture,
    gguf_name,
    rope_factors,
    row_order,
)
from pruning_core.export.gguf_blocks import BLOCK, carried
from pruning_core.export.gguf_tokenizer import tokenizer_keys
from pruning_core.export.gguf_weights import GgufWeights
from pruning_core.foreseen_model import ForeseenModel
from pruning_core.progress import Progress
from pruning_core.stored_model import StoredModel

FILE = "model.gguf"
PLAIN = ("f32", "f16", "bf16")


@FORMATS.register("gguf")
class Gguf:
    """One file with weights, architecture and tokenizer.

    type: of the matrices of the blocks. Of a quantized variant q4_0, q5_0 and q8_0 take the integers as they are, where
        groups are multiples of 32 columns and the integers fit; all else is rounded by the gguf library. Embeddings
        and head stay float16 (float32 and bfloat16 of those types), vectors float32. The K-quants (q4_k and so on)
        cannot be written, since the library only reads them.
    """

    type: Literal["f32", "f16", "bf16", "q8_0", "q5_0", "q4_0", "q5_1", "q4_1"] = "f16"

    exact = False
    native = False
    library = "llama-cpp-python"
    shell = False

    def foresee(self, model: ForeseenModel) -> None:
        self.check(model)

    def check(self, model: StoredModel) -> None:
        config = model.architecture
        check_architecture(config)
        tokenizer_keys(model.directory, config)
        for name in model.names():
            gguf_name(name)

    def write(self, model: StoredModel, out: Path, progress: Progress) -> dict[str, Any]:
        self.check(model)
        config = model.architecture
        encoder = _Encoder(model, config, self.type)
        partial = out / f".{FILE}.partial"
        try:
            facts = _written(partial, encoder, tokenizer_keys(model.directory, config), progress)
            partial.replace(out / FILE)
        finally:
            partial.unlink(missing_ok=True)
        return {"type": self.type, **facts}

    def recognises(self, directory: Path) -> bool:
        return any(directory.glob("*.gguf"))

    def read(self, directory: Path) -> GgufWeights:
        return GgufWeights(directory)

    def command(self) -> str:
        return f'import llama_cpp\nmodel = llama_cpp.Llama("{{path}}/{FILE}")'


@dataclass(frozen=True)
class _Encoder:
    """The tensors of a model as bytes of their types."""

    model: StoredModel
    config: PretrainedConfig
    type: str

    def type_of(self, name: str) -> str:
        """Of a tensor of the checkpoint."""
        shape = self.model.checkpoint.shape(name)
        if len(shape) == 1:
            return "f32"
        inside = gguf_name(name).startswith("blk.")
        if self.type in PLAIN or (inside and shape[-1] % BLOCK == 0):
            return self.type
        return "f16"

    def bytes_of(self, name: str) -> tuple[np.ndarray, Tensor, bool]:
        """(array as the file has it, float32 weight in that order of rows, whether it holds the variant's codes)."""
        kind, grid = self.type_of(name), None
        if name in self.model.whole:
            grid = self.model.grid(self.model.whole[name])
        weight = grid.weight if grid else self.model.load(name).float()
        found = carried(grid, kind) if grid else None
        data = _rounded(weight, kind, name) if found is None else found
        heads, key_value_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        order = row_order(check_architecture(self.config), gguf_name(name), len(data), heads, key_value_heads)
        if order is not None:
            data, weight = data[order], weight[torch.from_numpy(order)]
        return data, weight, found is not None


def _rounded(weight: Tensor, kind: str, name: str) -> np.ndarray:
    from gguf import GGMLQuantizationType, quants

    # What does not fit into float16 becomes infinite, and is refused below.
    with np.errstate(over="ignore", invalid="ignore"):
        data = quants.quantize(np.ascontiguousarray(weight.numpy()), GGMLQuantizationType[kind.upper()])
        finite = np.isfinite(quants.dequantize(data, GGMLQuantizationType[kind.upper()])).all()
    if not finite:
        raise InputError(f"{kind} cannot hold the weights of {name}; use --option type=f32 or bf16")
    return data


def _written(path: Path, encoder: _Encoder, tokenizer: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from gguf import GGUFWriter

    factors = rope_factors(encoder.config)
    with contextlib.closing(GGUFWriter(path, check_architecture(encoder.config))) as writer:
        _add_keys(writer, encoder, tokenizer)
        for name in encoder.model.names():
            _announce(writer, gguf_name(name), encoder.model.checkpoint.shape(name), encoder.type_of(name))
        if factors is not None:
            _announce(writer, ROPE_FREQUENCIES, factors.shape, "f32")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        facts = _write_weights(writer, encoder, progress)
        if factors is not None:
            writer.write_tensor_data(factors)
    return facts


def _write_weights(writer: Any, encoder: _Encoder, progress: Progress) -> dict[str, Any]:
    """Write every tensor of the checkpoint, in the order in which they were announced; facts on them."""
    from gguf import GGMLQuantizationType, quants

    names = encoder.model.names()
    facts = {"types": {}, "matrices_with_own_codes": 0, "zeros": {"before": 0, "kept": 0, "after": 0}}
    for done, name in enumerate(names, start=1):
        data, weight, own = encoder.bytes_of(name)
        kind = encoder.type_of(name)
        writer.write_tensor_data(data)
        facts["types"][kind] = facts["types"].get(kind, 0) + 1
        facts["matrices_with_own_codes"] += own
        read = quants.dequantize(data, GGMLQuantizationType[kind.upper()])
        _count_zeros(facts["zeros"], weight.numpy() == 0, read.reshape(weight.shape) == 0)
        progress(done, len(names))
    return facts


def _count_zeros(counts: dict[str, int], before: np.ndarray, after: np.ndarray) -> None:
    for kind, found in (("before", before), ("kept", before & after), ("after", after)):
        counts[kind] += int(np.count_nonzero(found))


def _announce(writer: Any, name: str, shape: tuple[int, ...], kind: str) -> None:
    from gguf import GGMLQuantizationType, quants

    number = GGMLQuantizationType[kind.upper()]
    if kind in ("f32", "f16"):
        dtype = np.dtype(np.float32 if kind == "f32" else np.float16)
        writer.add_tensor_info(name, shape, dtype, int(np.prod(shape)) * dtype.itemsize)
    else:
        packed = quants.quant_shape_to_byte_shape(shape, number)
        writer.add_tensor_info(name, packed, np.dtype(np.uint8), int(np.prod(packed)), raw_dtype=number)


def _add_keys(writer: Any, encoder: _Encoder, tokenizer: dict[str, Any]) -> None:
    from gguf import LlamaFileType

    names = {"f32": "ALL_F32"}
    writer.add_file_type(LlamaFileType[names.get(encoder.type, f"MOSTLY_{encoder.type.upper()}")])
    writer.add_quantization_version(2)
    keys = {
        f"{check_architecture(encoder.config)}.{key}": value for key, value in architecture_keys(encoder.config).items()
    }
    for key, value in (keys | {f"tokenizer.{key}": value for key, value in tokenizer.items()}).items():
        adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        adders.get(type(value), writer.add_array)(key, value)
