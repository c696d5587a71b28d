"""Models whose blocks differ in width, built from transformers' own classes: no code comes with such a model."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pruning_core.errors import InputError, required
from pruning_core.model.block_list import find_blocks
from pruning_core.model.coupled_groups import Site, site_of
from pruning_core.model.widths import KEY, BlockWidths, structure_of


def model_class(config: PretrainedConfig, *, concrete: bool = False) -> Any:
    """What has `from_pretrained` for a config: transformers' automatic class, or one that makes its blocks narrow.

    Args:
        concrete: the architecture's own class in any case, which takes weights that lie in no file too.

    Raises:
        InputError: narrow blocks, or `concrete`, of an architecture that transformers does not have.
    """
    structure = structure_of(config)
    if structure is None and not concrete:
        return AutoModelForCausalLM
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        subject = KEY if structure else "this export"
        raise InputError(f"{subject} needs an architecture of transformers in config.json, not {config.model_type!r}")
    stock: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if structure is None:
        return stock

    def build(self: PreTrainedModel, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        stock.__init__(self, config, *args, **kwargs)
        narrow(self, config)

    return type(stock.__name__, (stock,), {"__init__": build, "__module__": stock.__module__})


def from_config(config: PretrainedConfig, dtype: torch.dtype, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model of a config with new weights.

    Raises:
        InputError: as `model_class`.
    """
    loader = model_class(config)
    automatic = loader is AutoModelForCausalLM
    model: PreTrainedModel = (
        loader.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
        if automatic
        else loader._from_config(config, dtype=dtype)
    )
    return model


def narrow(model: nn.Module, config: PretrainedConfig) -> None:
    """Give the blocks of a model as transformers builds it the widths that its config tells; weights are undefined.

    Raises:
        InputError: widths that the blocks cannot have.
    """
    prefix, blocks = find_blocks(model, config)
    structure = required(structure_of(config), KEY)
    for index, (block, widths) in enumerate(zip(blocks, structure.blocks, strict=True)):
        full = f"{prefix}.{index}"
        if widths.channels is not None:
            site = site_of(block, full, index, "mlp")
            _check(0 < widths.channels <= site.groups, full)
            _resize(model, site, dict.fromkeys(("gate", "up", "down"), widths.channels))
        if widths.heads is not None:
            _narrow_attention(model, site_of(block, full, index, "attention"), widths, full)


def _check(possible: bool, full: str) -> None:
    if not possible:
        raise InputError(f"{KEY} in config.json gives {full} a width that it cannot have; take config.json as written")


def _narrow_attention(model: nn.Module, site: Site, widths: BlockWidths, full: str) -> None:
    heads = site.attention_heads
    query, key_value, size = widths.heads or 0, widths.key_value_heads or 0, heads.width
    _check(0 < key_value <= heads.key_value and 0 < query <= heads.query and query % key_value == 0, full)
    rows = {"query": query * size, "key": key_value * size, "value": key_value * size, "out": query * size}
    _resize(model, site, rows)
    attention: Any = model.get_submodule(site.consumer.matrix.rpartition(".")[0])
    attributes = {
        "num_heads": query,
        "num_attention_heads": query,
        "num_key_value_heads": key_value,
        "num_kv_heads": key_value,
        "num_key_value_groups": query // key_value,
        "split_size": query * size,
    }
    for name, value in attributes.items():
        if hasattr(attention, name):
            setattr(attention, name, value)
    if site.members[0].matrix.endswith("qkv_proj"):
        # Phi-3 asks the config where its queries end.
        attention.config = copy.copy(attention.config)
        attention.config.num_attention_heads, attention.config.num_key_value_heads = query, key_value
    if widths.alibi is not None:
        _check(len(widths.alibi) == query and all(0 <= head < heads.query for head in widths.alibi), full)
        attention.register_forward_pre_hook(_kept_slopes(widths.alibi, heads.query), with_kwargs=True)


def _resize(model: nn.Module, site: Site, lengths: dict[str, int]) -> None:
    """Make every parameter of a site as long as its parts together; `lengths` gives that of each part."""
    parts: dict[str, int] = {}
    for member in site.members:
        parts[member.name] = parts.get(member.name, 0) + lengths[member.part]
    for member in {member.name: member for member in site.members}.values():
        linear = model.get_submodule(member.matrix)
        old = getattr(linear, member.parameter)
        shape = list(old.shape)
        shape[member.axis] = parts[member.name]
        setattr(linear, member.parameter, nn.Parameter(old.new_empty(shape), requires_grad=old.requires_grad))
        if member.parameter == "weight":
            _tell_widths(linear)


def _tell_widths(linear: nn.Module) -> None:
    if isinstance(linear, Conv1D):
        linear.nx, linear.nf = linear.weight.shape
    elif isinstance(linear, nn.Linear):
        linear.out_features, linear.in_features = linear.weight.shape


def _kept_slopes(kept: list[int], heads: int) -> Any:
    """A hook that leaves of ALiBi's biases [batch * heads, 1, tokens] those of the heads that are there."""

    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        biases: Tensor = kwargs["alibi"]
        slopes = biases.unflatten(0, (-1, heads))[:, kept].flatten(0, 1)
        return args, kwargs | {"alibi": slopes}

    return hook
