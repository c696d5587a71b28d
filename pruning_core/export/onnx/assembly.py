"""The graph of an ONNX export with its weights: where each lies in the file beside it, and what multiplies with it."""

from typing import TYPE_CHECKING

from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import InputError
from pruning_core.export.onnx.encoder import (
    ALIGNMENT,
    CODES,
    HALVES,
    SCALE,
    TRANSPOSED,
    ZERO,
    Array,
    Layout,
    OnnxEncoder,
    Use,
)
from pruning_core.export.onnx.graph import Traced, traced
from pruning_core.export.onnx.packages import BLOCKED, DATA, DOMAIN, TORCH
from pruning_core.export.packing.stored_grids import DENSE_FORMATS
from pruning_core.model.stored_names import stored_places

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

NUMBERS = {dtype: number for number, dtype in TORCH.items()}
ROWS = ".rows"
"""Behind the name of what is looked up before it is float32."""
TIED = "tied/"
"""Before the name of a head that is the embedding again: no tensor of the checkpoint."""
USES = {("MatMul", 1): Use.PRODUCT, ("Gather", 0): Use.LOOKUP}
"""Kind of a node and place among its inputs."""
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
            _declare(trace.proto, array, offset)
            offset += -(-array.bytes // ALIGNMENT) * ALIGNMENT
    return trace.proto, list(layouts.values())


def _layouts(model: StoredModel, encoder: OnnxEncoder, trace: Traced) -> dict[str, Layout]:
    """Parameter -> layout of its weight, in the order of the names in the file."""
    places, layouts = stored_places(trace.model, model.checkpoint), dict[str, Layout]()
    uses = _uses(trace.proto)
    inputs = trace.model.get_input_embeddings()
    (embedding,) = (f"{name}.weight" for name, module in trace.model.named_modules() if module is inputs)
    for name, _ in trace.model.named_parameters(remove_duplicate=False):
        tied = name == trace.head and name not in places
        place = places.get(embedding if tied else name)
        if place is None:
            raise InputError(f"{model.directory} lacks the weight {name}")
        in_file = f"{TIED}{name}" if tied else place.name
        layouts[name] = encoder.layout(in_file, place.name, uses.get(name, Use.OTHER), name == trace.head)
    if unused := sorted(set(model.names()) - {layout.stored for layout in layouts.values()}):
        raise InputError(f"--format onnx has no place for the tensor {unused[0]}; use {DENSE_FORMATS}")
    return dict(sorted(layouts.items(), key=lambda item: item[1].name))


def _uses(proto: "ModelProto") -> dict[str, Use]:
    """Of the inputs of the graph that are transposed, and then nothing but multiplied with, and of those that nothing
    but rows are looked up of."""
    names = {one.name for one in proto.graph.input}
    uses: dict[str, set[Use]] = {}
    flipped = {node.output[0]: node.input[0] for node in proto.graph.node if _is_flip(node)}
    for node in proto.graph.node:
        if _is_flip(node):
            continue
        for index, value in enumerate(node.input):
            use = USES.get((node.op_type, index), Use.OTHER)
            # A matrix that is multiplied with as it lies, or a table that is transposed, is none of either.
            expected = flipped if use is Use.PRODUCT else names
            uses.setdefault(flipped.get(value, value), set()).add(use if value in expected else Use.OTHER)
    return {name: use for name, (use, *more) in uses.items() if name in names and not more}


def _is_flip(node: "NodeProto") -> bool:
    return node.op_type == "Transpose" and list(node.attribute[0].ints) == [1, 0]


def _connect(proto: "ModelProto", layouts: dict[str, Layout]) -> None:
    """Take the weights away from the inputs of the graph, and let what multiplies do so with them as they lie."""
    from onnx import helper

    linear = {name: layout for name, layout in layouts.items() if layout.use is Use.PRODUCT}
    flipped = {
        node.output[0]: linear[node.input[0]] for node in proto.graph.node if _is_flip(node) and node.input[0] in linear
    }
    kept = []
    for node in proto.graph.node:
        if node.output[0] in flipped:
            continue
        kept.append(node)
        if node.op_type == "MatMul" and node.input[1] in flipped:
            _multiply(node, flipped[node.input[1]])
            continue
        if node.op_type == "Gather" and node.input[0] in layouts and layouts[node.input[0]].dtype in HALVES:
            kept.append(_widened(node))
        for index, value in enumerate(node.input):
            if value in layouts:
                node.input[index] = layouts[value].name
    inputs = [one for one in proto.graph.input if one.name not in layouts]
    del proto.graph.node[:], proto.graph.input[:]
    proto.graph.node.extend(kept)
    proto.graph.input.extend(inputs)
    if any(layout.bits for layout in layouts.values()):
        proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _widened(node: "NodeProto") -> "NodeProto":
    """What makes float32 of the rows that `node` looks up."""
    from onnx import TensorProto, helper

    rows, node.output[0] = node.output[0], f"{node.output[0]}{ROWS}"
    return helper.make_node("Cast", [node.output[0]], [rows], to=TensorProto.FLOAT)


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


def _declare(proto: "ModelProto", array: Array, offset: int) -> None:
    from onnx import TensorProto

    tensor = proto.graph.initializer.add()
    tensor.name, tensor.data_type = array.name, NUMBERS[array.dtype]
    tensor.dims.extend(array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": DATA, "offset": offset, "length": array.bytes}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
