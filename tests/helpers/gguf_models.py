"""Tiny models with tokenizers that a GGUF file can hold."""

import json
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast

from pruning_core.checkpoint.model_files import read_config
from pruning_core.model.coupled_groups import Site, sites_of
from pruning_core.model.decoder import Decoder
from pruning_core.structured.kept_groups import KeptGroups
from pruning_core.structured.surgery import stored_parameters, write_pruned

TEXT = [
    f"the quick brown fox {word} jumps over 12 lazy dogs; they don't mind\n" for word in ("never", "always", "often")
]
VOCABULARY = 320
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    # Large enough for predictions that differ visibly.
    "initializer_range": 0.1,
}


def saved(kind: type[PretrainedConfig], directory: Path, pieces: bool = False, **settings) -> Path:
    """`directory` with a random model and a tokenizer: byte-level BPE, or `pieces` as SentencePiece has them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(kind(**SIZES | settings)).eval()
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(directory)
    tokenizer = piece_tokenizer() if pieces else byte_tokenizer()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(directory)
    return directory


def byte_tokenizer() -> Tokenizer:
    """Byte-level BPE as GPT-2 has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def piece_tokenizer() -> Tokenizer:
    """Pieces with spaces as letters and bytes for what is unknown, as Llama 2 has them."""
    space = "\u2581"
    cut = normalizers.Sequence([normalizers.Prepend(space), normalizers.Replace(" ", space)])
    learned = Tokenizer(models.BPE())
    learned.normalizer = cut
    learned.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=50, show_progress=False))
    names = ["<|end|>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    known = sorted(learned.get_vocab(), key=learned.get_vocab().get)
    vocabulary = {name: index for index, name in enumerate([*names, *known])}
    merges = [tuple(pair) for pair in _merges(learned)]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = cut
    tokenizer.add_special_tokens(["<|end|>", "<unk>"])
    return tokenizer


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    return json.loads(tokenizer.to_str())["model"]["merges"]


def mixed(
    kind: type[PretrainedConfig], root: Path, families: tuple[str, ...] = ("mlp", "attention"), **settings
) -> Path:
    """`root`/mixed with a model of three blocks whose widths all differ, by the real surgery."""
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 4}
    source = saved(kind, root / "even", **sizes | settings)
    decoder = Decoder(source, read_config(source))
    sites = sites_of(decoder.blocks, decoder.block_prefix, families)
    kept = {site.name: _kept(site) for site in sites}
    before, _ = stored_parameters(decoder)
    gone = sum((site.groups - len(kept[site.name])) * site.group_size for site in sites)
    write_pruned(decoder, sites, KeptGroups("heterogeneous", kept, before, before - gone), root / "mixed")
    for file in source.glob("token*"):
        shutil.copyfile(file, root / "mixed" / file.name)
    return root / "mixed"


def _kept(site: Site) -> tuple[int, ...]:
    if site.family == "query":
        # Every key-value head keeps the same number of queries.
        return tuple(group for group in range(site.groups) if site.block != 1 or group % site.heads.per_group)
    return tuple(range(1 + site.block, site.groups))
