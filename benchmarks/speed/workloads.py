"""The models and tokens that contestants are given, as files."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common.launch import ROOT
from benchmarks.speed.settings import WARM, WARM_LENGTH, WARM_SEQUENCES, RandomModel, Scale
from pruning_core.checkpoint.model_files import read_tokenizer
from pruning_core.text import TEXTS
from pruning_core.text.tokenized.windows import calibration_windows, evaluation_windows

SHIPPED = ROOT / "models" / "stdlib-2.8m"
HELD_OUT_WINDOWS = 8


@dataclass(frozen=True)
class Workload:
    """A model directory, the tokens to calibrate on, and tokens to judge by: files with "tokens" [windows, length]."""

    name: str
    model: Path
    tokens: Path
    held_out: Path

    def held_out_tokens(self) -> Tensor:
        """[windows, length] int64."""
        return load_file(self.held_out)["tokens"]


def random_workload(folder: Path, scale: Scale) -> Workload:
    """Random weights, random tokens: nothing to learn from but the time."""
    return _random("random", folder, scale.model, scale.sequences, scale.length)


def warm_workload(folder: Path) -> Workload:
    """What every process compresses first, before its time is taken."""
    return _random("warm", folder, WARM, WARM_SEQUENCES, WARM_LENGTH)


def shipped_workload(folder: Path, scale: Scale) -> Workload:
    """The model of this repository, with windows of the text of its kind that it has not seen."""
    tokenizer = read_tokenizer(SHIPPED)
    calibration = calibration_windows(
        TEXTS.build({"name": "stdlib", "split": scale.shipped_split}).read(),
        tokenizer,
        sequences=scale.shipped_sequences,
        length=scale.shipped_length,
        sampling="spread",
        seed=0,
    )
    held_out = evaluation_windows(
        TEXTS.build({"name": "stdlib", "split": "test"}).read(),
        tokenizer,
        length=scale.shipped_length,
        windows=scale.evaluation_windows,
    )
    return _stored("shipped", folder, SHIPPED, calibration.tokens, held_out.tokens)


def _random(name: str, folder: Path, model: RandomModel, sequences: int, length: int) -> Workload:
    config = LlamaConfig(
        vocab_size=model.vocabulary,
        hidden_size=model.width,
        intermediate_size=model.inner,
        num_hidden_layers=model.blocks,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        max_position_embeddings=model.context,
        tie_word_embeddings=True,
        dtype="float32",
    )
    directory = folder / f"{name}-model"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = dict(LlamaForCausalLM(config).named_parameters())
    config.save_pretrained(directory)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    # llm-compressor wants a tokenizer beside any model; this one has the vocabulary.
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(SHIPPED / file, directory / file)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.vocabulary, (sequences + HELD_OUT_WINDOWS, length), generator=draw)
    return _stored(name, folder, directory, tokens[:sequences].clone(), tokens[sequences:].clone())


def _stored(name: str, folder: Path, model: Path, tokens: Tensor, held_out: Tensor) -> Workload:
    folder.mkdir(parents=True, exist_ok=True)
    workload = Workload(name, model, folder / f"{name}-tokens.safetensors", folder / f"{name}-held-out.safetensors")
    save_file({"tokens": tokens}, workload.tokens)
    save_file({"tokens": held_out}, workload.held_out)
    return workload
