"""The safetensors file format: headers checked before any data is touched, and files written plainly.

A file is an 8-byte little-endian header length, a JSON header and the tensors' bytes, without gaps.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from pruning_core.errors import ComputationError, InputError

# In the order in which the safetensors library lays tensors out: the widest first keeps each one aligned.
DTYPES = {
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F32": torch.float32,
    "U32": torch.uint32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
LENGTH_BYTES = 8
ADVICE = "download or save the model again"


@dataclass(frozen=True)
class TensorEntry:
    """What the header says of one tensor; `start` and `stop` are byte offsets into the data part."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def bytes(self) -> int:
        """Size of the tensor in bytes."""
        return self.stop - self.start


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file by name, after checking that the file can hold them.

    Only the header is read. Changed tensor *content* cannot be seen here: that takes a digest.

    Raises:
        InputError: truncated file, unreadable header, or entries that do not tile the data exactly.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        room = size - LENGTH_BYTES
        if room < 0 or length > room:
            raise InputError(
                f"{path} is truncated or damaged: expected a header of {length} bytes, found {max(room, 0)}"
                f" bytes after the {LENGTH_BYTES}-byte length; {ADVICE}"
            )
        raw = file.read(length)
    entries = {
        name: _entry(path, name, value) for name, value in _header_json(path, raw).items() if name != "__metadata__"
    }
    _check_tiling(path, entries, room - length)
    return entries


def _header_json(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: its header is not JSON ({error}); {ADVICE}") from error
    if not isinstance(header, dict):
        raise InputError(f"{path} is damaged: its header is not a JSON object; {ADVICE}")
    return header


def _entry(path: Path, name: str, value: Any) -> TensorEntry:
    fields = value if isinstance(value, dict) else {}
    code, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2:
        raise InputError(f"{path} is damaged: the header entry of {name!r} lacks a shape or two offsets; {ADVICE}")
    if not isinstance(code, str) or code not in DTYPES:
        raise InputError(f"{path}: tensor {name!r} has dtype {code!r}; readable are {', '.join(DTYPES)}")
    start, stop = offsets
    entry = TensorEntry(DTYPES[code], tuple(shape), start, stop)
    expected = math.prod(entry.shape) * entry.dtype.itemsize
    if entry.bytes != expected:
        raise InputError(
            f"{path} is damaged: tensor {name!r} of shape {list(shape)} and dtype {code} takes {expected}"
            f" bytes, its header entry spans {entry.bytes}; {ADVICE}"
        )
    return entry


def _whole_numbers(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_tiling(path: Path, entries: Mapping[str, TensorEntry], data_bytes: int) -> None:
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != position:
            raise InputError(
                f"{path} is damaged: tensor {name!r} begins at byte {entry.start} of the data,"
                f" not at {position}; {ADVICE}"
            )
        position = entry.stop
    if position != data_bytes:
        fault = "truncated" if data_bytes < position else "damaged"
        raise InputError(
            f"{path} is {fault}: its header describes {position} bytes of tensors, found {data_bytes}; {ADVICE}"
        )


def write_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write contiguous CPU tensors as one safetensors file, byte for byte as the safetensors library does.

    The library's own writer is not used because it makes files that only their owner can read (mode 0600)
    and hides a full disk in an error of its own; here a full disk is the usual OSError.

    Raises:
        ComputationError: a dtype that the format does not know.
        OSError: the file cannot be written.
    """
    codes = {name: _code(name, tensor) for name, tensor in tensors.items()}
    layout = list(DTYPES)
    order = sorted(tensors, key=lambda name: (layout.index(codes[name]), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in order:
        tensor = tensors[name]
        stop = position + tensor.nbytes
        header[name] = {
            "dtype": codes[name],
            "shape": list(tensor.shape),
            "data_offsets": [position, stop],
        }
        position = stop
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    raw += b" " * (-len(raw) % LENGTH_BYTES)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(LENGTH_BYTES, "little") + raw)
        for name in order:
            file.write(tensors[name].reshape(-1).view(torch.uint8).numpy().data)


def _code(name: str, tensor: Tensor) -> str:
    if tensor.dtype not in CODES:
        raise ComputationError(f"tensor {name!r} has dtype {tensor.dtype}, which safetensors files cannot hold")
    return CODES[tensor.dtype]
