"""The weights of an ONNX export, read one at a time as the source checkpoint had them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pruning_core.errors import InputError
from pruning_core.export.onnx.assembly import TIED
from pruning_core.export.onnx.blocks import BITS, Blocks, unpack_codes
from pruning_core.export.onnx.encoder import CODES, HALVES, SCALE, TRANSPOSED, ZERO
from pruning_core.export.onnx.packages import BLOCKED, FILE, TORCH, check_installed

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

LARGEST = 2**31
"""Bytes of a graph: protobuf takes no more."""


@dataclass(frozen=True)
class Placed:
    """Where an array lies."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Product:
    """What multiplies with integers."""

    rows: int
    columns: int
    bits: int
    size: int


class OnnxWeights:
    """The weights of the ONNX graph of a directory under the names and in the layout of the source checkpoint, float32.

    Raises:
        InputError: no such graph, one that is damaged, or weights that do not lie in the files where it says.
    """

    def __init__(self, directory: Path) -> None:
        check_installed("reading an ONNX file")
        import onnx
        from google.protobuf.message import DecodeError

        self.path = directory / FILE
        if not self.path.is_file() or self.path.stat().st_size >= LARGEST:
            raise InputError(f"{directory} has no {FILE} of less than {LARGEST} bytes; export it again")
        try:
            model = onnx.load(self.path, load_external_data=False)
        except DecodeError as error:
            raise InputError(f"{self.path} is no ONNX file, or damaged; export it again") from error
        graph, outside = model.graph, onnx.TensorProto.EXTERNAL
        inside = [attribute for node in graph.node for attribute in node.attribute]
        # What lies within a node could name files as well.
        if model.functions or any(
            one.HasField("g") or one.graphs or one.t.data_location == outside or one.tensors for one in inside
        ):
            raise InputError(f"{self.path} holds graphs within its graph or weights within its nodes; export it again")
        self._arrays = {one.name: self._placed(one) for one in graph.initializer if one.data_location == outside}
        self._products = {
            node.input[1].removesuffix(CODES): self._product(node)
            for node in graph.node
            if node.op_type == BLOCKED and len(node.input) > 2
        }
        plain = {name.removesuffix(TRANSPOSED) for name in self._arrays if not name.endswith((CODES, SCALE, ZERO))}
        self._names = {name for name in plain | set(self._products) if not name.startswith(TIED)}

    def names(self) -> list[str]:
        """All tensors, sorted."""
        return sorted(self._names)

    def load(self, name: str) -> Tensor:
        """A tensor in float32.

        Raises:
            InputError: no such tensor, or parts that do not belong together.
        """
        if name not in self._names:
            raise InputError(f"{self.path} holds no tensor {name!r}")
        if name in self._products:
            return self.blocks(name).weight
        if name in self._arrays:
            return self._array(name, torch.float32, *HALVES).float()
        return self._array(f"{name}{TRANSPOSED}", torch.float32).T.contiguous()

    def dtype(self, name: str) -> torch.dtype:
        """Of the numbers of a tensor that is stored as it is; float32 of all others."""
        return self._arrays[name].dtype if name in self._arrays else torch.float32

    def blocks(self, name: str) -> Blocks:
        """The integers of a matrix.

        Raises:
            InputError: as `load`.
        """
        one = self._products[name]
        count = -(-one.columns // one.size)
        codes = self._array(f"{name}{CODES}", torch.uint8, shape=(one.rows, count, one.size * one.bits // 8))
        scale = self._array(f"{name}{SCALE}", torch.float32, shape=(one.rows, count))
        zero = torch.full((one.rows, count), 2 ** (one.bits - 1), dtype=torch.uint8)
        if f"{name}{ZERO}" in self._arrays:
            packed = self._array(f"{name}{ZERO}", torch.uint8, shape=(one.rows, -(-count * one.bits // 8)))
            zero = unpack_codes(packed, one.bits, count)
        return Blocks(unpack_codes(codes.flatten(1), one.bits, one.columns), scale, zero, one.bits, one.size)

    def _array(self, name: str, *dtypes: torch.dtype, shape: tuple[int, ...] | None = None) -> Tensor:
        at = self._arrays.get(name)
        if at is None or at.dtype not in dtypes or shape not in (None, at.shape):
            raise InputError(
                f"{self.path}: the parts of {name.rpartition('.')[0]} do not fit together; export it again"
            )
        with at.file.open("rb") as file:
            file.seek(at.offset)
            data = bytearray(file.read(math.prod(at.shape) * at.dtype.itemsize))
        return torch.frombuffer(data, dtype=at.dtype).reshape(at.shape)

    def _placed(self, tensor: "TensorProto") -> Placed:
        place = {entry.key: entry.value for entry in tensor.external_data}
        location, dtype = place.get("location", ""), TORCH.get(tensor.data_type)
        # One elsewhere would let a downloaded graph read any file of this machine.
        if not location or Path(location).name != location:
            raise InputError(f"{self.path} names the file {location!r}; its weights must lie beside it")
        file = self.path.with_name(location)
        if dtype is None or not file.is_file():
            fault = f"is of type {tensor.data_type}, which is not known here" if file.is_file() else "lies in no file"
            raise InputError(f"{self.path}: {tensor.name} {fault}; export it again")
        shape = tuple(tensor.dims)
        offset, length = (_number(place.get(key, "")) for key in ("offset", "length"))
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=1) < 1 or length != size or not 0 <= offset <= file.stat().st_size - length:
            raise InputError(
                f"{self.path} is damaged: {tensor.name} is not where it says in {location}; export it again"
            )
        return Placed(file, dtype, shape, offset)

    def _product(self, node: "NodeProto") -> Product:
        settings = {one.name: one.i for one in node.attribute}
        product = Product(*(settings.get(key, 0) for key in ("N", "K", "bits", "block_size")))
        if product.bits not in BITS or min(product.rows, product.columns, product.size) < 1 or product.size % 16:
            raise InputError(f"{self.path}: the product with {node.input[1]} is of a kind that is not known here")
        return product


def _number(text: str) -> int:
    """-1 of what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
