"""The workspace that memory is measured in: a Llama of TinyLlama's shape with random weights, and its params.yaml."""

import shutil
from pathlib import Path

import torch
import yaml
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from pruning_core.checkpoint.checkpoint import INDEX_FILE, SINGLE_FILE
from pruning_core.checkpoint.sharded_writer import ShardedWriter

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "models" / "stdlib-2.8m"
VARIANT = "sparsegpt-50"
SPARSITY = 0.5
SHARD_BYTES = 2**29
SPREAD = 0.02
"""Standard deviation of the random matrices."""
PARAMS = {
    "model": "../model",
    "calibration": {"text": {"name": "stdlib", "split": "train"}, "sequences": 16, "length": 512},
    "evaluation": {"text": {"name": "stdlib", "split": "test"}, "length": 512, "windows": 4},
    "variants": {
        VARIANT: {
            "saliency": {"name": "obs"},
            "pattern": {"name": "unstructured", "scope": "block"},
            "sparsity": SPARSITY,
            "compensation": {"name": "sweep", "block": 128, "damping": 0.01},
            "propagate": "compressed",
        }
    },
}


def tinyllama_config(blocks: int = 22) -> LlamaConfig:
    """The sizes of TinyLlama-1.1B."""
    return LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=blocks,
        num_attention_heads=32,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )


def make_model(folder: Path, config: LlamaConfig) -> int:
    """Write the model into `folder`, unless one of these sizes is there; returns its number of parameters.

    One shard of weights is in memory at a time.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if not _is_there(folder, config):
        shutil.rmtree(folder, ignore_errors=True)
        _write_weights(folder, model)
        for file in TOKENIZER.glob("tokenizer*"):
            shutil.copyfile(file, folder / file.name)
        # Last: weights without it are those of a run that was stopped.
        config.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def make_workspace(folder: Path) -> Path:
    """An empty workspace beside the model; what an earlier measurement left there goes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
    return folder


def _write_weights(directory: Path, model: nn.Module) -> None:
    draw = torch.Generator().manual_seed(0)
    with ShardedWriter(directory, SHARD_BYTES) as writer:
        for name, parameter in model.named_parameters():
            matrix = torch.empty(parameter.shape)
            value = matrix.normal_(0, SPREAD, generator=draw) if parameter.dim() == 2 else matrix.fill_(1)
            writer.add(name, value.to(torch.bfloat16))


def _is_there(directory: Path, config: LlamaConfig) -> bool:
    weights = any((directory / name).is_file() for name in (SINGLE_FILE, INDEX_FILE))
    if not weights or not (directory / "config.json").is_file():
        return False
    return LlamaConfig.from_pretrained(directory).num_hidden_layers == config.num_hidden_layers
