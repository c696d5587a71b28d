"""The graph of an ONNX export with its weights: where each lies in the file beside it, and what multiplies with it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pruning_core.errors import InputError
from pruning_core.export.onnx_encoder import ALIGNMENT, CODES, SCALE, TRANSPOSED, ZERO, Layout, OnnxEncoder
from pruning_core.export.onnx_graph import Traced, traced
from pruning_core.export.onnx_packages import BLOCKED, DATA, DOMAIN
from pruning_core.export.stored_grids import DENSE_FORMATS
from pruning_core.stored_model import StoredModel
from pruning_core.stored_names import stored_places

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

TIED = "tied/"
"""Before the name of a head that is the embedding again: no tensor of the checkpoint."""
BY_INT8 = 4
"""The accuracy level at which ONNX Runtime rounds activations to int8 to multiply them with integers."""


def assembled(model: StoredModel, encoder: OnnxEncoder) -> tuple["ModelProto", list[Layout]]:
    """(the graph, whose weights are said to lie in the file beside it; their layouts in the order of that file).

    Raises:
        InputError: the checkpoint has tensors that the graph does not use.
    """
    trace = traced(model.architecture)
    layouts = _layouts(model, encoder, trace)
    _connect(trace.proto, layouts)
    offset = 0
    for layout in layouts.values():
        for array in layout.arrays:
            _declare(trace.proto, array.name, array.dtype, array.shape, offset, array.bytes)
            offset += -(-array.bytes // ALIGNMENT) * ALIGNMENT
    return trace.proto, list(layouts.values())


def _layouts(model: StoredModel, encoder: OnnxEncoder, trace: Traced) -> dict[str, Layout]:
    """Parameter -> layout of its weight, in the order of the names in the file."""
    places, found = stored_places(trace.model, model.checkpoint), {}
    linear = _linear(trace.proto)
    inputs = trace.model.get_input_embeddings()
    (embedding,) = (f"{name}.weight" for name, module in trace.model.named_modules() if module is inputs)
    for name, _ in trace.model.named_parameters(remove_duplicate=False):
        tied = name == trace.head and name not in places
        place = places.get(embedding if tied else name)
        if place is None:
            raise InputError(f"{model.directory} lacks the weight {name}")
        own = f"{TIED}{name}" if tied else place.name
        found[name] = encoder.layout(own, place.name, name in linear, name == trace.head)
    if unused := sorted(set(model.names()) - {layout.stored for layout in found.values()}):
        raise InputError(f"--format onnx has no place for the tensor {unused[0]}; use {DENSE_FORMATS}")
    return dict(sorted(found.items(), key=lambda item: item[1].name))


def _linear(proto: "ModelProto") -> set[str]:
    """The inputs of the graph that are transposed, and then nothing but multiplied with."""
    flipped = {node.output[0]: node.input[0] for node in proto.graph.node if _is_flip(node)}
    names = {one.name for one in proto.graph.input}
    other = {
        value
        for node in proto.graph.node
        for index, value in enumerate(node.input)
        if not (node.op_type == "MatMul" and index == 1)
    }
    uses = [value for node in proto.graph.node for value in node.input]
    return {
        source
        for value, source in flipped.items()
        if source in names and uses.count(source) == 1 and value not in other
    }


def _is_flip(node: "NodeProto") -> bool:
    return node.op_type == "Transpose" and list(node.attribute[0].ints) == [1, 0]


def _connect(proto: "ModelProto", layouts: dict[str, Layout]) -> None:
    """Take the weights away from the inputs of the graph, and let what multiplies do so with them as they lie."""
    from onnx import helper

    linear = {name: layout for name, layout in layouts.items() if layout.linear}
    flipped = {
        node.output[0]: linear[node.input[0]] for node in proto.graph.node if _is_flip(node) and node.input[0] in linear
    }
    kept = [node for node in proto.graph.node if node.output[0] not in flipped]
    for node in kept:
        if node.op_type == "MatMul" and node.input[1] in flipped:
            _multiply(node, flipped[node.input[1]])
            continue
        for index, value in enumerate(node.input):
            if value in layouts:
                node.input[index] = layouts[value].name
    inputs = [one for one in proto.graph.input if one.name not in layouts]
    del proto.graph.node[:], proto.graph.input[:]
    proto.graph.node.extend(kept)
    proto.graph.input.extend(inputs)
    if any(layout.bits for layout in layouts.values()):
        proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _multiply(node: "NodeProto", layout: Layout) -> None:
    """Make a product one with the weight of `layout`."""
    from onnx import helper

    if not layout.bits:
        node.input[1] = layout.name + TRANSPOSED
        return
    node.op_type, node.domain = BLOCKED, DOMAIN
    parts = [layout.name + part for part in (CODES, SCALE, *([ZERO] if layout.zeros else []))]
    node.input[:] = [node.input[0], *parts]
    rows, columns = layout.shape
    settings = {"K": columns, "N": rows, "bits": layout.bits, "block_size": layout.size, "accuracy_level": BY_INT8}
    node.attribute.extend(helper.make_attribute(key, value) for key, value in settings.items())


def _declare(proto: "ModelProto", name: str, dtype: np.dtype, shape: Sequence[int], offset: int, length: int) -> None:
    from onnx import TensorProto, helper

    tensor = proto.graph.initializer.add()
    tensor.name, tensor.data_type = name, helper.np_dtype_to_tensor_dtype(dtype)
    tensor.dims.extend(shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": DATA, "offset": offset, "length": length}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
