"""Sparse containers of all encodings, and what a broken disk or a hostile hand may make of them."""

import contextlib
import json
import resource
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from pruning_core.checkpoint.safetensors_format import LENGTH_BYTES
from pruning_core.checkpoint.stored_model import StoredGrid
from pruning_core.errors import InputError
from pruning_core.sparse_container import INDEX
from pruning_core.sparse_container.choice import candidates
from pruning_core.sparse_container.entry import Matrix
from pruning_core.sparse_container.reader import SparseContainer
from pruning_core.sparse_container.writer import SparseContainerWriter

HEADROOM = 256 * 2**20
"""More memory than this no reader of the small containers here may ask for."""
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn, torch.float64)
NUMBERS = (-1, 0, 1, 2, 7, 255, 2**16, 2**31 - 1, 2**31, 2**40, 2**60, 2**63 - 1, 2**63, 2**64, 10**30, 1.5, -0.0)
WORDS = ("", "dense", "csr", "codes", "bitmask", "n_of_m", "F32", "BOOL", "../x", "/dev/zero")
HOSTILE = (*NUMBERS, *WORDS, True, False, None, [], {}, [[]])
Files = dict[str, bytes]


def sparse_matrix(draw: Random, dtype: torch.dtype) -> Tensor:
    """[rows, columns] or [k, rows, columns]; each at random sparse, with rows and groups of zeros, -0.0 and NaN."""
    noise = torch.Generator().manual_seed(draw.getrandbits(32))
    shape = [draw.randint(1, 9), draw.choice([1, 3, 8, 16, 24, 33, 300])]
    if draw.random() < 0.2:
        shape.insert(0, draw.randint(1, 3))
    weight = torch.randn(shape, generator=noise)
    weight[torch.rand(shape, generator=noise) < draw.choice([0.0, 0.5, 0.9, 1.0])] = 0.0
    weight[..., draw.randrange(shape[-2]), :] = 0.0
    flat = weight.view(-1)
    for special in (-0.0, float("nan"), float("inf"), 1e-40):
        if draw.random() < 0.3:
            flat[draw.randrange(len(flat))] = special
    if draw.random() < 0.4 and shape[-1] % 8 == 0:
        weight.view(-1, 8)[:, 2:] = 0.0
    return weight.to(dtype)


def coded_matrix(draw: Random, dtype: torch.dtype) -> Matrix:
    """[rows, columns] whose weights are integers on grids."""
    noise = torch.Generator().manual_seed(draw.getrandbits(32))
    rows, columns, bits = draw.randint(1, 8), draw.choice([1, 8, 24, 33, 64]), draw.randint(2, 8)
    size = draw.choice([columns, 8, 5])
    groups = -(-columns // size)
    group = (torch.arange(columns) // size).to(torch.int32)
    if draw.random() < 0.3:
        group = group[torch.randperm(columns, generator=noise)]
    scale = torch.rand(rows, groups, generator=noise) + 0.01
    zero = torch.randint(0, 2**bits, (rows, groups), generator=noise).float()
    codes = torch.randint(0, 2**bits, (rows, columns), generator=noise).to(torch.uint8)
    keep = torch.rand(rows, columns, generator=noise) > draw.choice([0.0, 0.5, 0.8])
    codes = codes.where(keep, zero[:, group.long()].to(torch.uint8))
    grid = StoredGrid(codes, scale, zero, group, bits)
    return Matrix(grid.weight.to(dtype), grid, keep if draw.random() < 0.8 else None)


def valid_container(draw: Random, directory: Path) -> dict[str, Tensor]:
    """Write a container with a tensor per way to store it, in one shard or several; name -> dense tensor."""
    written = {}
    with SparseContainerWriter(directory, draw.choice([300, 3000, 10**6])) as writer:
        for number in range(draw.randint(1, 4)):
            make = draw.choice([sparse_matrix, coded_matrix])
            drawn = make(draw, draw.choice(DTYPES))
            matrix = drawn if isinstance(drawn, Matrix) else Matrix(drawn)
            for entry in candidates(matrix):
                name = f"{number}.{entry.encoding}.{len(written)}"
                writer.add(name, matrix, entry)
                written[name] = matrix.weight
        others = {"flags": torch.tensor([True, False]), "none": torch.zeros(0, 4), "one": torch.ones(())}
        for name, tensor in others.items():
            written[name] = tensor
            writer.add(name, Matrix(tensor), candidates(Matrix(tensor))[0])
    return written


def files_of(directory: Path) -> Files:
    """Name -> content."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def mutated(draw: Random, files: Mapping[str, bytes]) -> Files:
    """One to three changes; mostly the index then still knows the sizes of the files, so that a reader gets further."""
    changed = dict(files)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        change = draw.choice([_bytes, _bytes, _length, _index, _index, _header, _part, _part, _part, _names])
        change(draw, changed)
    if draw.random() < 0.8:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            index = json.loads(changed[INDEX])
            index["files"] = {name: len(changed[name]) for name in index["files"]}
            changed[INDEX] = json.dumps(index).encode()
    return changed


def _bytes(draw: Random, files: Files) -> None:
    name = draw.choice(sorted(files))
    content = bytearray(files[name])
    for _ in range(draw.choice([1, 1, 4])):
        if content:
            content[draw.randrange(len(content))] = draw.choice([0, 255, draw.randrange(256)])
    files[name] = bytes(content)


def _length(draw: Random, files: Files) -> None:
    name = draw.choice(sorted(files))
    place = draw.randint(0, len(files[name]))
    files[name] = draw.choice([files[name][:place], files[name] + draw.randbytes(8), b""])


def _index(draw: Random, files: Files) -> None:
    files[INDEX] = _json(draw, files[INDEX])


def _header(draw: Random, files: Files) -> None:
    if shards := sorted(set(files) - {INDEX}):
        name = draw.choice(shards)
        length = int.from_bytes(files[name][:LENGTH_BYTES], "little")
        header = _json(draw, files[name][LENGTH_BYTES : LENGTH_BYTES + length])
        files[name] = len(header).to_bytes(LENGTH_BYTES, "little") + header + files[name][LENGTH_BYTES + length :]


def _part(draw: Random, files: Files) -> None:
    """Change what is in one part: numbers out of range, out of order, repeated."""
    if not (shards := sorted(set(files) - {INDEX})):
        return
    name = draw.choice(shards)
    start = LENGTH_BYTES + int.from_bytes(files[name][:LENGTH_BYTES], "little")
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, IndexError):
        header = json.loads(files[name][LENGTH_BYTES:start])
        first, last = header[draw.choice(sorted(set(header) - {"__metadata__"}))]["data_offsets"]
        part = bytearray(files[name][start + first : start + last])
        at, other = draw.randrange(len(part)), draw.randrange(len(part))
        kind = draw.randrange(4)
        if kind == 0:
            part[at], part[other] = part[other], part[at]
        elif kind == 1:
            part[at] = (part[at] + draw.choice([1, -1])) % 256
        elif kind == 2:
            part[:] = bytes([draw.choice([0, 255])]) * len(part)
        else:
            part[at:] = part[at:][::-1]
        files[name] = files[name][: start + first] + bytes(part) + files[name][start + last :]


def _names(draw: Random, files: Files) -> None:
    name, other = draw.choice(sorted(files)), draw.choice(sorted(files))
    if draw.random() < 0.5:
        files[name], files[other] = files[other], files[name]
    else:
        del files[name]
        files.setdefault(INDEX, b"{}")


def _json(draw: Random, raw: bytes) -> bytes:
    """Replace, remove or copy one value of a JSON text."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return raw
    places = list(_places(content))
    if not places:
        return raw
    holder, key = draw.choice(places)
    kind = draw.randrange(5)
    if kind == 0 and isinstance(holder, dict):
        holder[draw.choice(["", "count", "mask", "../x", "é"])] = holder.pop(key)
    elif kind == 1:
        del holder[key]
    elif kind == 2 and type(holder[key]) is int:
        holder[key] += draw.choice([1, -1, 8, holder[key]])
    elif kind == 3:
        other, its = draw.choice(places)
        holder[key] = json.loads(json.dumps(other[its]))
    else:
        holder[key] = draw.choice(HOSTILE)
    return json.dumps(content).encode()


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """(object or list, key) of every value within."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield content, key
        yield from _places(value)


def read_all(files: Mapping[str, bytes]) -> dict[str, Tensor | None] | None:
    """Open the files as a container and load every tensor, None for those refused; None where the whole is refused.

    Whatever else comes of it, a demand for memory too, is an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        with little_memory():
            try:
                container = SparseContainer(folder)
            except InputError:
                return None
            return {name: _loaded(container, name) for name in container.names()}


def _loaded(container: SparseContainer, name: str) -> Tensor | None:
    try:
        tensor = container.load(name)
    except InputError:
        return None
    if tuple(tensor.shape) != container.shape(name) or tensor.dtype != container.dtype(name):
        raise AssertionError(f"{name} was read as {tensor.dtype} {list(tensor.shape)}")
    return tensor


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Within, the process may grow by `HEADROOM`, where the system is one that tells how large it is: Linux."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        yield
        return
    pages = int(statm.read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + HEADROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
