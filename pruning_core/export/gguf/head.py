"""The head of a GGUF file, as the gguf library writes it: keys, and the table of the tensors."""

import io
from typing import Any

import numpy as np

from pruning_core.export.gguf.architecture import ROPE_FREQUENCIES, gguf_name
from pruning_core.export.gguf.encoder import Encoder
from pruning_core.export.gguf.header import ALIGNMENT


def head_of(encoder: Encoder, tokenizer: dict[str, Any], factors: np.ndarray | None) -> bytes:
    """All that precedes the content of the first tensor.

    The tensors follow in the order of the checkpoint's names, the factors of the rotary positions last, each `padded`.

    Args:
        tokenizer: its keys without their prefix.
        factors: as `pruning_core.export.gguf.architecture.rope_factors` gives them.
    """
    from gguf import GGUFWriter
    from gguf.gguf_writer import WriterState

    writer, head = GGUFWriter(None, encoder.architecture), io.BytesIO()
    _add_keys(writer, encoder, tokenizer)
    for name in encoder.model.names():
        _announce(writer, gguf_name(name), encoder.model.checkpoint.shape(name), encoder.type_of(name))
    if factors is not None:
        _announce(writer, ROPE_FREQUENCIES, factors.shape, "f32")
    # The library opens files by their paths only; this is the state in which it leaves one that it opened.
    writer.fout = [head]  # type: ignore[list-item]
    writer.state = WriterState.EMPTY
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return padded(np.frombuffer(head.getbuffer(), np.uint8)).tobytes()


def padded(data: np.ndarray) -> np.ndarray:
    """[bytes] uint8 of an array, with zeros up to where the next tensor may begin."""
    content = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    missing = -len(content) % ALIGNMENT
    return np.concatenate([content, np.zeros(missing, np.uint8)]) if missing else content


def _announce(writer: Any, name: str, shape: tuple[int, ...], kind: str) -> None:
    from gguf import GGMLQuantizationType, quants

    number = GGMLQuantizationType[kind.upper()]
    if kind in ("f32", "f16"):
        dtype = np.dtype(np.float32 if kind == "f32" else np.float16)
        writer.add_tensor_info(name, shape, dtype, int(np.prod(shape)) * dtype.itemsize)
    else:
        packed = quants.quant_shape_to_byte_shape(shape, number)
        writer.add_tensor_info(name, packed, np.dtype(np.uint8), int(np.prod(packed)), raw_dtype=number)


def _add_keys(writer: Any, encoder: Encoder, tokenizer: dict[str, Any]) -> None:
    from gguf import LlamaFileType

    names = {"f32": "ALL_F32"}
    writer.add_file_type(LlamaFileType[names.get(encoder.type, f"MOSTLY_{encoder.type.upper()}")])
    writer.add_quantization_version(2)
    keys = {f"{encoder.architecture}.{key}": value for key, value in encoder.keys.items()}
    for key, value in (keys | {f"tokenizer.{key}": value for key, value in tokenizer.items()}).items():
        adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        adders.get(type(value), writer.add_array)(key, value)
