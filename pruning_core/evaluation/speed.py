"""Throughput of a model on this machine: facts of a run, not of the model."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pruning_core.errors import InputError
from pruning_core.model.context_length import context_length
from pruning_core.model.vocabulary import vocabulary_size
from pruning_core.progress import Progress, ignore_progress


@dataclass(frozen=True)
class Rate:
    """Tokens per second over the repeats: median and quartiles."""

    median: float
    lower_quartile: float
    upper_quartile: float

    @classmethod
    def of(cls, tokens: int, seconds: list[float]) -> "Rate":
        """From the times that so many tokens took."""
        rates = [tokens / taken for taken in seconds]
        low, middle, high = statistics.quantiles(rates, n=4, method="inclusive")
        return cls(middle, low, high)


@dataclass(frozen=True)
class Speed:
    """Throughput of a model and the conditions that it holds under.

    Args:
        prefill: prompt tokens per second, all sequences of the batch together; logits of every position.
        decode: generated tokens per second, one at a time per sequence with the key-value cache.
    """

    prefill: Rate
    decode: Rate
    batch: int
    prompt: int
    generated: int
    repeats: int
    device: str
    dtype: str
    threads: int

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def measure_speed(
    model: PreTrainedModel,
    *,
    prompt: int = 128,
    generated: int = 32,
    batch: int = 1,
    repeats: int = 5,
    warmup: int = 1,
    progress: Progress = ignore_progress,
) -> Speed:
    """Time prefill and greedy decoding, after warm-up runs that are not counted.

    Args:
        prompt, generated: tokens per sequence.
        repeats: timed runs, at least 2 for quartiles.

    Raises:
        InputError: a number out of range, more tokens than the context, or a model without a cache.
    """
    prefill, decode = timed_runs(
        model, prompt=prompt, generated=generated, batch=batch, repeats=repeats, warmup=warmup, progress=progress
    )
    parameter = next(model.parameters())
    return Speed(
        prefill=Rate.of(batch * prompt, prefill),
        decode=Rate.of(batch * generated, decode),
        batch=batch,
        prompt=prompt,
        generated=generated,
        repeats=repeats,
        device=_device_name(parameter.device),
        dtype=str(parameter.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )


@torch.inference_mode()
def timed_runs(
    model: PreTrainedModel,
    *,
    prompt: int,
    generated: int,
    batch: int = 1,
    repeats: int = 5,
    warmup: int = 1,
    progress: Progress = ignore_progress,
) -> tuple[list[float], list[float]]:
    """Seconds of each timed prefill and of each timed decoding.

    Args, Raises: as `measure_speed`.
    """
    _check(model, prompt, generated, batch, repeats, warmup)
    tokens = _prompt(model, prompt, next(model.parameters()).device).expand(batch, -1)
    return counted(lambda: _timed_run(model, tokens, generated), repeats, warmup, progress)


def counted(
    run: Callable[[], tuple[float, float]], repeats: int, warmup: int, progress: Progress
) -> tuple[list[float], list[float]]:
    """(seconds of prefill, seconds of decoding) of each `run` after the warm-up."""
    seconds = []
    for number in range(warmup + repeats):
        seconds.append(run())
        progress(number + 1, warmup + repeats)
    return [prefill for prefill, _ in seconds[warmup:]], [decoding for _, decoding in seconds[warmup:]]


def _check(model: PreTrainedModel, prompt: int, generated: int, batch: int, repeats: int, warmup: int) -> None:
    wrong = [
        f"{name} must be at least {least}, got {value}"
        for name, value, least in [
            ("prompt", prompt, 1),
            ("generated", generated, 1),
            ("batch", batch, 1),
            ("repeats", repeats, 2),
            ("warmup", warmup, 0),
        ]
        if value < least
    ]
    limit = context_length(model.config)
    if limit is not None and prompt + generated > limit:
        wrong.append(f"prompt + generated must be at most the model's context of {limit} tokens")
    if wrong:
        raise InputError(f"speed: {wrong[0]}")


def _prompt(model: PreTrainedModel, length: int, device: torch.device) -> Tensor:
    # What the tokens are does not change the work.
    return torch.arange(length, device=device) % vocabulary_size(model)


def _timed_run(model: PreTrainedModel, tokens: Tensor, generated: int) -> tuple[float, float]:
    """Seconds of the prefill and of the decoding."""
    began = _now(tokens.device)
    output = model(input_ids=tokens, use_cache=True)
    token = output.logits[:, -1:].argmax(-1)
    prefilled = _now(tokens.device)
    if getattr(output, "past_key_values", None) is None:
        raise InputError(f"{type(model).__name__} returns no key-value cache; decoding cannot be timed")
    for _ in range(generated):
        output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
        token = output.logits[:, -1:].argmax(-1)
    return prefilled - began, _now(tokens.device) - prefilled


def _now(device: torch.device) -> float:
    # A GPU answers before it has finished.
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
