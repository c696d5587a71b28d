"""A slow reader of sparse containers, written from docs/formats.md alone: plain Python, one number at a time."""

import json
import math
import struct
from pathlib import Path

import numpy as np

SIZES = {"U64": 8, "I64": 8, "F64": 8, "C64": 8, "F32": 4, "U32": 4, "I32": 4, "BF16": 2, "F16": 2}
SIZES |= {"U16": 2, "I16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1}
LAYOUTS = {"U8": "B", "U16": "H", "I32": "i", "I64": "q", "F32": "f"}


def read(directory: Path) -> dict[str, bytes]:
    """Name -> the bytes of the dense tensor, row by row, little-endian."""
    index = json.loads((directory / "sparse_container.json").read_bytes())
    shards = {file: shard(directory / file) for file in index["files"]}
    return {name: decoded(name, entry, shards[entry["file"]]) for name, entry in index["tensors"].items()}


def shard(path: Path) -> dict[str, tuple[str, bytes]]:
    """Part -> (dtype, bytes) of a safetensors file."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    return {name: (e["dtype"], content[start:][slice(*e["data_offsets"])]) for name, e in header.items()}


def decoded(name: str, entry: dict, parts: dict[str, tuple[str, bytes]]) -> bytes:
    def numbers(part: str) -> list:
        dtype, content = parts[f"{name}/{part}"]
        return [number for (number,) in struct.iter_unpack("<" + LAYOUTS[dtype], content)]

    def bit(part: str, position: int) -> int:
        return parts[f"{name}/{part}"][1][position // 8] >> (position % 8) & 1

    def integer(part: str, number: int, width: int) -> int:
        return sum(bit(part, number * width + k) << k for k in range(width))

    if entry["encoding"] == "dense":
        return parts[f"{name}/values"][1]
    size, columns = SIZES[entry["dtype"]], entry["shape"][-1]
    rows = math.prod(entry["shape"][:-1])
    row_bits = 8 * math.ceil(columns / 8)
    dense = [bytes(size)] * (rows * columns)
    if entry["encoding"] == "codes":
        bits, groups, group_size = entry["bits"], entry["groups"], entry["group_size"]
        scale = np.array(numbers("scale"), dtype=np.float32)
        group = numbers("group") if group_size is None else [j // group_size for j in range(columns)]
        read_codes = 0
        for i in range(rows):
            for j in range(columns):
                if entry["count"] < rows * columns and not bit("mask", i * row_bits + j):
                    continue
                grid = i * groups + group[j]
                code, zero = integer("codes", read_codes, bits), integer("zero", grid, bits)
                with np.errstate(all="ignore"):
                    dense[i * columns + j] = rounded(scale[grid] * np.float32(code - zero), entry["dtype"])
                read_codes += 1
        return b"".join(dense)
    stored = parts[f"{name}/values"][1]
    values = iter([stored[k : k + size] for k in range(0, len(stored), size)])
    if entry["encoding"] == "bitmask":
        for i in range(rows):
            for j in range(columns):
                if bit("mask", i * row_bits + j):
                    dense[i * columns + j] = next(values)
    if entry["encoding"] == "n_of_m":
        n, m = entry["n"], entry["m"]
        width = math.ceil(math.log2(m))
        for k in range(rows * columns // m * n):
            dense[k // n * m + integer("indices", k, width)] = next(values)
    if entry["encoding"] == "csr":
        crow, places = numbers("crow"), numbers("columns")
        for i in range(rows):
            for k in range(crow[i], crow[i + 1]):
                dense[i * columns + places[k]] = next(values)
    return b"".join(dense)


def rounded(number: np.float32, dtype: str) -> bytes:
    """The bytes of a float32 in a narrower type: the nearest, halves to even."""
    if dtype == "F16":
        return np.float16(number).tobytes()
    if dtype == "F64":
        return np.float64(number).tobytes()
    if dtype != "BF16":
        return number.tobytes()
    whole = int(number.view(np.uint32))
    if whole & 0x7FFFFFFF > 0x7F800000:
        return b"\xc0\x7f"
    return ((whole + 0x7FFF + (whole >> 16 & 1)) >> 16).to_bytes(2, "little")
