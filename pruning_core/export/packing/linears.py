"""Linear layers of a quantized model that are not quantized, which loaders have to know."""

import torch
from torch import nn

from pruning_core.checkpoint.model_files import read_config
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.model.narrowed import from_config


def other_linears(model: StoredModel) -> list[str]:
    """Modules with a matrix and without codes, sorted: lm_head, routers, linear layers of blocks that were left out.

    Both as transformers names them and as the checkpoint does, where the two differ.
    """
    with torch.device("meta"):
        modules = dict(from_config(read_config(model.directory), torch.float32).named_modules())
    embeddings = {name for name, module in modules.items() if isinstance(module, nn.Embedding)}
    matrices = {name for name, module in modules.items() if getattr(getattr(module, "weight", None), "ndim", 0) == 2}
    stems = {name.removesuffix(".weight") for name in model.names() if len(model.checkpoint.shape(name)) == 2}
    coded = {name for matrix in model.quantized for name in (matrix.name, matrix.stored.removesuffix(".weight"))}
    return sorted((matrices | stems) - embeddings - coded)
