"""Where a causal language model keeps its blocks."""

from torch import nn
from transformers import PretrainedConfig

from pruning_core.errors import InputError


def find_blocks(model: nn.Module, config: PretrainedConfig) -> tuple[str, nn.ModuleList]:
    """Full name and module of the list of the decoder's blocks.

    Raises:
        InputError: the architecture has no such list.
    """
    depth = config.get_text_config().num_hidden_layers
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if not lists:
        raise InputError(
            f"{type(model).__name__} has no list of {depth} blocks; Espalier compresses decoder-only models "
            "(Llama, Mistral, GPT-2, OPT and their kin)"
        )
    # A block may hold short lists of its own (experts): the outermost list is the decoder's.
    return min(lists, key=lambda item: item[0].count("."))
