"""What the shipped model learns from: the tokenizer, the packed tokens and the batch of every step."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pruning_core.text import Documents

END = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer with `vocabulary` tokens; token 0 ends a text. Any text round-trips."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def transformers_tokenizer(tokenizer_file: Path, context: int) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers uses it; it adds no special tokens by itself."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file),
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def pack_documents(documents: Documents, tokenizer: Tokenizer) -> Tensor:
    """[tokens] int64: all documents in order, each followed by the end-of-text token."""
    end = tokenizer.token_to_id(END)
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(list(documents.texts), add_special_tokens=False):
        ids.extend(encoding.ids)
        ids.append(end)
    return torch.tensor(ids, dtype=torch.int64)


@dataclass(frozen=True)
class Batches:
    """The batch of step t as a pure function of (tokens, seed, t): nothing to save, nothing to replay.

    Every epoch cuts the tokens into back-to-back windows, from an offset of its own, and reads them in
    an order of its own.

    Args:
        tokens: [tokens] int64.
        length: predictions per window.
        rows: windows per step.
        seed: of offsets and orders.

    Raises:
        ValueError: fewer than two windows of tokens.
    """

    tokens: Tensor
    length: int
    rows: int
    seed: int

    def __post_init__(self) -> None:
        if self.windows < 1:
            raise ValueError(f"{len(self.tokens)} tokens are too few for windows of {self.length}")

    @property
    def windows(self) -> int:
        """Windows per epoch: whatever the offset, they fit."""
        return (len(self.tokens) - self.length) // self.length

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """(inputs, targets) of `step`, each [rows, length] int64; targets are the inputs' next tokens."""
        first = step * self.rows
        spans = []
        for index in range(first, first + self.rows):
            epoch, place = divmod(index, self.windows)
            # Drawn anew for every row: a permutation of some thousands costs far less than a training step.
            draw = np.random.default_rng([self.seed, epoch])
            offset = int(draw.integers(self.length))
            start = offset + int(draw.permutation(self.windows)[place]) * self.length
            spans.append(self.tokens[start : start + self.length + 1])
        block = torch.stack(spans)
        return block[:, :-1], block[:, 1:]
