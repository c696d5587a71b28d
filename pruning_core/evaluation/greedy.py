"""Greedy continuations: what a model writes when it always takes the most likely token, beside the dense model's."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruning_core.errors import ComputationError, InputError
from pruning_core.evaluation.protocol import Agreement
from pruning_core.model.context_length import context_length
from pruning_core.model.vocabulary import vocabulary_size
from pruning_core.progress import Progress, ignore_progress
from pruning_core.text.tokenized.windows import decoded


@dataclass(frozen=True)
class SampleProtocol(Agreement):
    """What continuations must share to stand side by side.

    Args:
        prompts: hex digest of the token ids of all prompts.
        new_tokens: how many each is continued by at most.
        dtype: what the model computed in.
    """

    prompts: str
    new_tokens: int
    dtype: str = "float32"

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], new_tokens: int) -> "SampleProtocol":
        """The protocol of continuing these prompts."""
        ids = json.dumps([list(prompt) for prompt in prompts])
        return cls(hashlib.sha256(ids.encode()).hexdigest(), new_tokens)


@torch.no_grad()
def continue_greedily(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], new_tokens: int, progress: Progress = ignore_progress
) -> list[list[int]]:
    """The tokens that follow each prompt, each the most likely one after all before it; no other rule of generation.

    Prompts of one length go through the model together, with its key-value cache. A continuation ends with the
    model's end token, which is a part of it, or after `new_tokens`.

    Args:
        prompts: token ids.

    Raises:
        InputError: no prompt, an empty one, ids of another vocabulary, more tokens than the model's context, or a
            model without a cache.
        ComputationError: a logit that is NaN.
    """
    _check(model, prompts, new_tokens)
    places: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        places.setdefault(len(prompt), []).append(place)
    continuations: list[list[int]] = [[] for _ in prompts]
    ends, done = end_tokens(model), 0
    for same in places.values():
        for place, tokens in zip(same, _continued(model, [prompts[p] for p in same], new_tokens, ends), strict=True):
            continuations[place] = tokens
        done += len(same)
        progress(done, len(prompts))
    return continuations


def end_tokens(model: PreTrainedModel) -> frozenset[int]:
    """Ids of the tokens that end what the model writes."""
    ends = getattr(model, "generation_config", model.config).eos_token_id
    return frozenset([ends] if isinstance(ends, int) else ends or ())


def shared_start(own: Sequence[Any], other: Sequence[Any]) -> int:
    """How many tokens, or characters, are equal before the first difference."""
    pairs = enumerate(zip(own, other, strict=False))
    return next((place for place, (one, two) in pairs if one != two), min(len(own), len(other)))


def agreement(own: Sequence[Sequence[int]], dense: Sequence[Sequence[int]]) -> float:
    """Of all tokens that the dense model wrote, the share that the other wrote too, before their first difference."""
    shared = sum(shared_start(one, two) for one, two in zip(own, dense, strict=True))
    return shared / sum(map(len, dense))


def parts(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], tokens: Sequence[int], shared: int
) -> tuple[str, str, str]:
    """The text of `tokens` after `prompt`: of the first `shared` ones, of the next, and of those after it.

    A character whose bytes are spread over several tokens belongs to the part where it ends.
    """
    whole = decoded(tokenizer, [*prompt, *tokens])

    def edge(count: int) -> int:
        return shared_start(decoded(tokenizer, [*prompt, *tokens[:count]]), whole)

    begin, leaves = edge(0), edge(shared)
    further = (edge(count) for count in range(shared + 1, len(tokens) + 1))
    end = next((place for place in further if place > leaves), len(whole))
    return whole[begin:leaves], whole[leaves:end], whole[end:]


def _continued(
    model: PreTrainedModel, prompts: list[Sequence[int]], new_tokens: int, ends: frozenset[int]
) -> list[list[int]]:
    tokens = torch.tensor([list(prompt) for prompt in prompts], device=next(model.parameters()).device)
    cache, columns = None, list[list[int]]()
    ended = [False] * len(prompts)
    while len(columns) < new_tokens and not all(ended):
        output = model(input_ids=tokens, past_key_values=cache, use_cache=True)
        cache = getattr(output, "past_key_values", None)
        if cache is None:
            raise InputError(f"{type(model).__name__} returns no key-value cache; remove evaluation.samples")
        logits = output.logits[:, -1].float()
        if bool(logits.isnan().any()):
            raise ComputationError(f"the logits of token {len(columns)} of a continuation are NaN")
        tokens = logits.argmax(-1, keepdim=True)
        columns.append(tokens[:, 0].tolist())
        ended = [was or token in ends for was, token in zip(ended, columns[-1], strict=True)]
    return [_until(list(row), ends) for row in zip(*columns, strict=True)]


def _until(tokens: list[int], ends: frozenset[int]) -> list[int]:
    return tokens[: next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))]


def _check(model: PreTrainedModel, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
    if not prompts or not all(prompts) or new_tokens < 1:
        raise InputError("samples need at least one prompt of at least one token, and at least one new token")
    vocabulary = vocabulary_size(model)
    if strange := next((token for prompt in prompts for token in prompt if not 0 <= token < vocabulary), None):
        raise InputError(
            f"a prompt holds token {strange}, the model knows 0 to {vocabulary - 1}; "
            "use the tokenizer that belongs to it"
        )
    longest, limit = max(map(len, prompts)), context_length(model.config)
    if limit is not None and longest + new_tokens > limit:
        raise InputError(
            f"evaluation.samples: a prompt of {longest} tokens and {new_tokens} new ones are more than the model's "
            f"context of {limit}; use shorter prompts or fewer new_tokens"
        )
