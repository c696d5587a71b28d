"""A decoder without weights: the same modules, names and stops as the real one, on the meta device."""

import copy
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from pruning_core.model.block_list import find_blocks
from pruning_core.model.decoder import Decoder, _head_only
from pruning_core.model.experts import Experts, Routed, unfuse
from pruning_core.model.narrowed import from_config


class Skeleton(Decoder):
    """A decoder whose blocks are always loaded and weigh nothing.

    Experts share the tokens of a micro-batch evenly, since where real tokens go is not known.

    Raises:
        InputError: the architecture cannot be compressed, as `Decoder` says.
    """

    def __init__(self, config: PretrainedConfig, dtype: torch.dtype, trust_remote_code: bool = False) -> None:
        self.device, self.dtype = torch.device("meta"), dtype
        # A model writes into its configuration.
        written = copy.deepcopy(config)
        with torch.device("meta"):
            model = from_config(written, dtype, trust_remote_code=trust_remote_code)
        self.model: PreTrainedModel = model.eval()
        self.model.config.use_cache = False
        self.block_prefix, self.blocks = find_blocks(self.model, written)
        unfuse(self.model)
        for module in self.model.modules():
            if isinstance(module, Experts):
                module.forward = partial(_evenly, module)  # type: ignore[method-assign]
        self._calls = {}
        skipped = _head_only(self.model)
        self._head: int = sum(p.numel() for p in self.model.parameters() if id(p) in skipped)

    def load_block(self, index: int, replaced: dict[str, Tensor] | None = None) -> nn.Module:
        return self.blocks[index]

    def drop_block(self, index: int) -> None:
        """Nothing was loaded."""

    def _load_outside(self) -> None:
        """Nothing is loaded."""

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def outside_parameters(self) -> int:
        """Of what runs outside the blocks in calibration: embeddings, but not the output head."""
        inside = sum(parameter.numel() for parameter in self.blocks.parameters())
        return self.parameters - inside - self._head

    def largest_tensor(self) -> int:
        """Entries of the largest parameter."""
        return max(parameter.numel() for parameter in self.model.parameters())


def expert_tokens(experts: Experts, choices: int) -> int:
    """Tokens of one expert where `choices` (tokens x experts per token) are shared evenly."""
    return -(-choices // experts.count)


def _evenly(experts: Experts, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """What `Experts.forward` does, each expert on as many tokens as every other."""
    share = min(expert_tokens(experts, top_k_index.numel()), len(hidden))
    assigned = [hidden[:share] for _ in range(experts.count)]
    experts.entering(Routed(lambda expert: assigned[expert].clone(), lambda expert: hidden))
    inner = [experts._inner(expert, tokens.clone()) for expert, tokens in enumerate(assigned)]
    experts.leaving(Routed(lambda expert: inner[expert], lambda expert: experts._inner(expert, hidden)))
    out = torch.zeros_like(hidden)
    for expert, tokens in enumerate(inner):
        out[:share].add_(experts._of(expert).down_proj(tokens))
    return out
