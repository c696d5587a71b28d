"""A causal language model as an ONNX graph with its cache, traced from config.json alone.

The graph takes `input_ids` [batch, tokens] int64 and per block `past_key_i`, `past_value_i` [batch, heads, past, head
width] float32; it gives `logits` [batch, tokens, vocabulary] and `present_key_i`, `present_value_i`, longer by the
tokens. Batch, tokens and past are free, and past may be 0.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from pruning_core.errors import InputError, required
from pruning_core.export.onnx.packages import quiet
from pruning_core.export.packing.stored_grids import DENSE_FORMATS
from pruning_core.model.narrowed import from_config

if TYPE_CHECKING:
    from onnx import ModelProto

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gpt_neox")
"""Values of model_type whose graph gives the logits of transformers."""
ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Types of rotary positions whose frequencies do not depend on the length of the text."""
OPSET = 23
"""The first with attention, rotary embedding and RMS norm as operators of their own."""
WRAPPED = "model."
"""What the tracer puts in front of the names of parameters."""


@dataclass(frozen=True)
class Traced:
    """A graph that takes its weights as inputs, named as the model's parameters."""

    proto: "ModelProto" = field(repr=False)
    model: PreTrainedModel = field(repr=False)
    """Its parameters have shapes, and take no memory."""
    head: str
    """Name of the parameter that gives the logits."""


def check_architecture(config: PretrainedConfig) -> None:
    """Raises InputError where the graph of a config cannot be traced."""
    rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if config.model_type not in ARCHITECTURES:
        fault = f"model_type {config.model_type!r} is none of {', '.join(ARCHITECTURES)}"
    elif rotation not in ROTATIONS:
        fault = f"the rotary positions are of type {rotation!r}, none of {', '.join(ROTATIONS)}"
    else:
        return
    raise InputError(f"--format onnx cannot express this model: {fault}; use {DENSE_FORMATS}")


def traced(config: PretrainedConfig) -> Traced:
    """The graph of a config, equal byte for byte whenever it is traced with the same libraries."""
    model = _without_memory(config)
    past = _empty_cache(model)
    names = [f"{part}_{block}" for block in range(len(past) // 2) for part in ("key", "value")]
    batch, tokens, before = (torch.export.Dim(name) for name in ("batch", "tokens", "past"))
    with quiet():
        exported = torch.onnx.export(
            WithCache(model),
            (torch.zeros(2, 3, dtype=torch.long), *past),
            dynamo=True,
            opset_version=OPSET,
            input_names=["input_ids", *(f"past_{name}" for name in names)],
            output_names=["logits", *(f"present_{name}" for name in names)],
            dynamic_shapes=({0: batch, 1: tokens}, ({0: batch, 2: before},) * len(past)),
            # Small weights would be folded into the graph, and those of now are not the model's.
            optimize=False,
            verbose=False,
        )
        program = required(exported, "the program that torch exported")
        graph = program.model.graph
        for name, _ in model.named_parameters(remove_duplicate=False):
            value = graph.initializers.pop(f"{WRAPPED}{name}")
            value.const_value, value.name = None, name
            graph.inputs.append(value)
        program.optimize()
        proto = program.model_proto
    _strip(proto)
    (head,) = (name for name, module in model.named_modules() if module is model.get_output_embeddings())
    return Traced(proto, model, f"{head}.weight")


class WithCache(nn.Module):
    """A causal language model whose cache comes in and goes out as plain tensors: key and value, block by block."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        cache = DynamicCache(zip(past[::2], past[1::2], strict=True))
        # Given per sequence: those that the model makes itself have a batch of one, which the rotary operator refuses.
        positions = (past[0].shape[2] + torch.arange(tokens.shape[1])).expand(tokens.shape[0], -1)
        output = self.model(input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True)
        return output.logits, *_tensors(output.past_key_values)


def _tensors(cache: DynamicCache) -> list[Tensor]:
    return [getattr(layer, part) for layer in cache.layers for part in ("keys", "values")]


def _without_memory(config: PretrainedConfig) -> PreTrainedModel:
    """The model in float32; each parameter is one number, seen in the parameter's shape, and shared with no other."""
    # Rotary tables, which are no parameters, must be real.
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = from_config(config, torch.float32).eval()
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        owner, _, attribute = name.rpartition(".")
        one = torch.zeros(()).expand(parameter.shape)
        setattr(model.get_submodule(owner), attribute, nn.Parameter(one, requires_grad=False))
    return model


def _empty_cache(model: PreTrainedModel) -> list[Tensor]:
    """Keys and values of a few tokens, as the blocks make them: sizes of 0 and 1 would be taken for constants."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        tensors = _tensors(model(input_ids=torch.zeros(2, 5, dtype=torch.long), use_cache=True).past_key_values)
    return [torch.zeros(tensor.shape) for tensor in tensors]


def _strip(proto: "ModelProto") -> None:
    """Take away what tells of this machine, such as the files that operators were traced from."""
    proto.doc_string = ""
    del proto.metadata_props[:], proto.graph.metadata_props[:], proto.graph.value_info[:]
    values = (*proto.graph.input, *proto.graph.output)
    for part in (*proto.graph.node, *proto.graph.initializer, *values):
        part.doc_string = ""
        del part.metadata_props[:]
