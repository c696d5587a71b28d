"""Models small enough to be made anew in every test."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 50


@pytest.fixture
def tiny_llama() -> Callable[..., LlamaForCausalLM]:
    """Builds a random Llama of two blocks, in eval mode; keywords go into its config."""

    def build(seed: int = 0, **settings) -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            # Large enough for predictions that differ visibly between two seeds.
            initializer_range=0.3,
        )
        config.update(settings)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return LlamaForCausalLM(config).eval()

    return build


@pytest.fixture
def tiny_directory(tiny_llama, tmp_path: Path) -> Path:
    """A complete model directory: config, model.safetensors and a tokenizer of one word per token."""
    path = tmp_path / "tiny"
    tiny_llama().save_pretrained(path)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(path)
    return path
