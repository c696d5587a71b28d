"""Random models of every architecture whose groups can be removed, and the masked models to hold surgery against."""

from pathlib import Path

import torch
import transformers
from architectures import CONFIGS, KIN, OLDER
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from pruning_core.checkpoint.model_files import read_config
from pruning_core.model.coupled_groups import Site, sites_of
from pruning_core.model.decoder import Decoder
from pruning_core.model.whole_model import WholeDecoder
from pruning_core.structured.kept_groups import KeptGroups
from pruning_core.structured.surgery import stored_parameters

WIDE = KIN | {"hidden_size": 32, "num_attention_heads": 8}
FALCON = OLDER | {"num_hidden_layers": 2, "num_attention_heads": 4}
MORE = [
    transformers.LlamaConfig(**KIN, attention_bias=True, mlp_bias=True),
    # Four queries to each of two key-value heads.
    transformers.LlamaConfig(**WIDE, tie_word_embeddings=True),
    transformers.FalconConfig(**FALCON, new_decoder_architecture=True, num_kv_heads=2),
    transformers.FalconConfig(**FALCON, multi_query=False),
    transformers.FalconConfig(**FALCON, multi_query=False, parallel_attn=False, bias=True),
    transformers.GPTNeoXConfig(
        **OLDER, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, use_parallel_residual=False
    ),
]
EXPERTS = {"mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "phimoe", "deepseek_v3"}
DENSE = [config for config in CONFIGS if config.model_type not in EXPERTS] + MORE
ATTENTION_TIED = {"olmo2"}
"""Norms over all heads."""
ONE_KEY = {"falcon"}
"""multi_query: one key-value head."""


def label(config: PretrainedConfig) -> str:
    """Names a config in the list of tests."""
    return config.model_type


def saved(config: PretrainedConfig, path: Path) -> Path:
    """`path` with a random model in it whose every parameter matters: biases and norms too."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(path)
    return path


def families_of(config: PretrainedConfig) -> list[str]:
    """The families that a config's blocks show."""
    if config.model_type in ATTENTION_TIED:
        return ["mlp"]
    one = config.model_type in ONE_KEY and config.multi_query and not config.new_decoder_architecture
    return ["mlp", "query" if one else "attention"]


def opened(directory: Path, families: list[str]) -> tuple[Decoder, list[Site]]:
    """The model with its blocks on disk, and its groups."""
    decoder = Decoder(directory, read_config(directory))
    return decoder, sites_of(decoder.blocks, decoder.block_prefix, families)


def some_plan(decoder: Decoder, sites: list[Site], mode: str = "heterogeneous") -> KeptGroups:
    """Keeps other groups of every site, and in mode heterogeneous other numbers of them."""
    before, _ = stored_parameters(decoder)
    kept, after = {}, before
    for site in sites:
        fewer = site.block % 3 if mode == "heterogeneous" else 1
        if site.family == "query":
            share = site.heads.per_group
            groups = [group for group in range(site.groups) if group % share != fewer % share or share == 1]
        elif site.family == "attention":
            groups = [group for group in range(site.groups) if group != fewer % site.groups]
        else:
            groups = [group for group in range(site.groups) if group % (3 + fewer) != fewer]
        kept[site.name] = tuple(groups)
        after -= (site.groups - len(groups)) * site.group_size
    return KeptGroups(mode, kept, before, after)


def masked(directory: Path, sites: list[Site], plan: KeptGroups) -> nn.Module:
    """transformers' own model with zeros where groups go: row by row, column by column, with nothing of surgery's."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        for site in sites:
            for group in set(range(site.groups)) - set(plan.kept[site.name]):
                for member in site.members:
                    parameter = model.get_parameter(member.name)
                    for position in member.index[group].tolist():
                        parameter.select(member.axis, position).zero_()
    return model


def token_windows(count: int = 3, length: int = 20, seed: int = 1) -> Tensor:
    """[count, length] token ids of a vocabulary of 50."""
    return torch.randint(3, 50, (count, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: nn.Module | WholeDecoder, tokens: Tensor) -> Tensor:
    """[batch, length, vocabulary] of a model."""
    return (model.model if isinstance(model, WholeDecoder) else model)(input_ids=tokens).logits
