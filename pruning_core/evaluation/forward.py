"""Next-token logits of a model over windows of tokens, in batches that fit into memory."""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pruning_core.errors import InputError
from pruning_core.model.context_length import check_fits
from pruning_core.model.vocabulary import vocabulary_size

LOGITS_BYTES = 2**30
CHUNK_NUMBERS = 2**24


def check_windows(model: PreTrainedModel, windows: Tensor, batch: int) -> None:
    """Refuse what cannot give a meaningful number.

    Args:
        windows: [windows, length] token ids.

    Raises:
        InputError: no windows, shorter than two tokens, longer than the model's context, ids of another
            vocabulary, no batch, or a model in training mode.
    """
    if windows.ndim != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
        raise InputError(f"evaluation needs at least one window of at least 2 tokens, got shape {list(windows.shape)}")
    if batch < 1:
        raise InputError(f"the evaluation batch must be at least 1 window, got {batch}")
    if model.training:
        raise InputError("the model is in training mode, where dropout makes results random; call model.eval()")
    check_fits(model.config, windows.shape[1])
    vocabulary = vocabulary_size(model)
    low, high = int(windows.min()), int(windows.max())
    if low < 0 or high >= vocabulary:
        raise InputError(
            f"the windows hold token {high if high >= vocabulary else low}, the model knows 0 to {vocabulary - 1};"
            " use the tokenizer that belongs to the model"
        )


def window_batches(model: PreTrainedModel, windows: Tensor, batch: int, models: int = 1) -> Iterator[Tensor]:
    """The windows in batches of at most `batch`: fewer where the float32 logits would exceed 1 GiB."""
    row_bytes = windows.shape[1] * vocabulary_size(model) * 4 * models
    yield from windows.split(max(1, min(batch, LOGITS_BYTES // row_bytes)))


def next_token_logits(model: PreTrainedModel, rows: Tensor) -> Tensor:
    """[rows, length - 1, vocabulary] logits of the tokens from the second on, in the model's dtype."""
    device = next(model.parameters()).device
    logits: Tensor = model(input_ids=rows.to(device), use_cache=False).logits[:, :-1]
    return logits


def position_chunks(*logits: Tensor) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
    """Pieces of [positions, vocabulary] logits as float32, so that only a piece of the copy is in memory."""
    positions, vocabulary = logits[0].shape
    step = max(1, CHUNK_NUMBERS // vocabulary)
    for start in range(0, positions, step):
        piece = slice(start, start + step)
        yield piece, tuple(part[piece].float() for part in logits)


def standard_error(values: Tensor) -> float | None:
    """Standard error of the mean of independent values; None for a single one, which says nothing of it."""
    if values.numel() < 2:
        return None
    return float(values.double().std(correction=1) / torch.tensor(values.numel()).double().sqrt())
