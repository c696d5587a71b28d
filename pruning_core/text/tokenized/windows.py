"""Windows of tokens: the unit in which a text calibrates and evaluates a model."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pruning_core.errors import InputError
from pruning_core.registry import nearest
from pruning_core.text import Documents


@dataclass(frozen=True)
class Windows:
    """Token windows with what made them.

    Args:
        tokens: [windows, length] int64 token ids.
        facts: JSON facts: source, text_digest, token_digest (`token_digest`), sampling, special_tokens, stride, bos,
            and scored, the predictions at the end of each window that count in an evaluation.
    """

    tokens: Tensor
    facts: dict[str, Any]


def calibration_windows(
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase,
    *,
    sequences: int,
    length: int,
    sampling: str,
    seed: int,
) -> Windows:
    """`sequences` windows of `length` tokens to calibrate on.

    `sampling` is one of
    - `first`: the first windows of the joined text, back to back, without special tokens; takes no seed.
    - `spread`: the joined text, without special tokens, is cut into `sequences` equal parts, and each gives
      one window at a place drawn with `seed`: windows never overlap, and no part of the text is left out.
    - `documents`: the C4 protocol of SparseGPT and Wanda: draw a document until one has more than `length`
      tokens, the tokenizer's special ones included, then a start in it; all with Python's own generator.

    Raises:
        InputError: a number out of range, an unknown sampling, or a text that is too short.
    """
    _check_positive(sequences=sequences, length=length)
    special = sampling == "documents"
    if special:
        rows = _document_windows(documents, tokenizer, sequences, length, seed)
    elif sampling in ("first", "spread"):
        if sampling == "first" and seed != 0:
            raise InputError(f"sampling first draws nothing, so seed must be 0, got {seed}; or use spread")
        ids = token_ids(tokenizer, documents.text, special_tokens=False)
        _check_enough(len(ids) // length, sequences, length, len(ids))
        starts: Sequence[int] = range(0, sequences * length, length)
        if sampling == "spread":
            starts = spread_starts(len(ids), sequences, length, seed)
        rows = [ids[start : start + length] for start in starts]
    else:
        names = ["first", "spread", "documents"]
        raise InputError(f"sampling {sampling!r} is not known{nearest(sampling, names)}: use {', '.join(names)}")
    return _windows(rows, documents, sampling, special, seed)


def evaluation_windows(
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    windows: int | None,
    special_tokens: bool = False,
    stride: int | None = None,
    bos: bool = False,
) -> Windows:
    """The first `windows` (None: all) windows of the joined text tokenised once.

    With `special_tokens` the tokenizer adds its own once, around the whole text, as the papers' scripts do. Windows are
    back to back, or start every `stride` tokens; then each judges its last `stride` predictions, all of which have at
    least `length - stride` tokens before them, and the first tokens of the text are context alone. With `bos` the first
    of the `length` tokens is BOS, and back to back every token of the text is judged.

    Raises:
        InputError: a number out of range, no BOS, or a text that is too short.
    """
    _check_positive(length=length, windows=1 if windows is None else windows)
    first = _beginning(tokenizer, special_tokens) if bos else []
    of_text = length - len(first)
    step = of_text if stride is None else stride
    if not 1 <= step <= of_text:
        raise InputError(
            f"evaluation.stride must be between 1 and {of_text}, the text's tokens in a window, got {step}"
        )
    ids = token_ids(tokenizer, documents.text, special_tokens=special_tokens)
    available = max((len(ids) - of_text) // step + 1, 0)
    count = max(available, 1) if windows is None else windows
    _check_enough(available, count, length, len(ids))
    rows = [[*first, *ids[start : start + of_text]] for start in range(0, count * step, step)]
    consecutive = _windows(rows, documents, "consecutive", special_tokens, None)
    return Windows(
        consecutive.tokens, consecutive.facts | {"stride": stride, "bos": bos, "scored": min(step, length - 1)}
    )


def _beginning(tokenizer: PreTrainedTokenizerBase, special_tokens: bool) -> list[int]:
    if special_tokens:
        raise InputError(
            "evaluation.bos puts BOS before every window and evaluation.special_tokens before the text; use one of them"
        )
    if tokenizer.bos_token_id is None:
        raise InputError("this model's tokenizer has no BOS token; leave evaluation.bos out")
    return [tokenizer.bos_token_id]


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of token ids as they are, special tokens and spaces included."""
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return cast("str", text)  # One sequence in, one text out.


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special_tokens: bool) -> list[int]:
    """Token ids of `text`, of any length."""
    # verbose=False: a text longer than the model's context is the normal case here, not worth a warning.
    encoded = tokenizer(
        text, add_special_tokens=special_tokens, return_attention_mask=False, truncation=False, verbose=False
    )
    ids: list[int] = encoded["input_ids"]
    return ids


def spread_starts(tokens: int, sequences: int, length: int, seed: int) -> list[int]:
    """Start of one window in each of `sequences` equal parts of a text of `tokens` tokens."""
    draw = random.Random(seed)
    edges = [part * tokens // sequences for part in range(sequences + 1)]
    return [draw.randint(low, high - length) for low, high in pairwise(edges)]


def token_digest(tokens: Tensor) -> str:
    """sha256 hex digest of the ids as little-endian int64, row by row."""
    return hashlib.sha256(tokens.numpy().astype("<i8").tobytes()).hexdigest()


def _document_windows(
    documents: Documents, tokenizer: PreTrainedTokenizerBase, sequences: int, length: int, seed: int
) -> list[Sequence[int]]:
    """The papers' protocol: draw documents until one is longer than `length`, then a random start in it."""
    draw = random.Random(seed)
    too_short: dict[int, int] = {}
    rows: list[Sequence[int]] = []
    while len(rows) < sequences:
        if len(too_short) == len(documents.texts):
            longest = max(too_short.values(), default=0)
            raise InputError(
                f"no document has more than {length} tokens (the longest has {longest}),"
                f" so there are 0 windows and {sequences} were asked; use a shorter length or sampling spread"
            )
        index = draw.randint(0, len(documents.texts) - 1)
        if index in too_short:
            continue
        ids = token_ids(tokenizer, documents.texts[index], special_tokens=True)
        if len(ids) <= length:
            too_short[index] = len(ids)
            continue
        start = draw.randint(0, len(ids) - length - 1)
        rows.append(ids[start : start + length])
    return rows


def _windows(
    rows: Sequence[Sequence[int]], documents: Documents, sampling: str, special: bool, seed: int | None
) -> Windows:
    tokens = torch.tensor(rows, dtype=torch.int64)
    facts = {
        "source": dict(documents.source),
        "text_digest": documents.digest,
        "token_digest": token_digest(tokens),
        "sampling": sampling,
        "special_tokens": special,
        "seed": seed,
        "windows": tokens.shape[0],
        "length": tokens.shape[1],
        "stride": None,
        "bos": False,
        "scored": tokens.shape[1] - 1,
    }
    return Windows(tokens, facts)


def _check_positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")


def _check_enough(available: int, count: int, length: int, tokens: int) -> None:
    if available < count:
        raise InputError(
            f"the text has {available} windows of {length} tokens ({tokens} tokens) and {count} were asked; "
            f"ask for fewer or shorter windows, or use a longer text"
        )
