"""A loaded model answers lm-eval tasks through lm-evaluation-harness."""

import copy
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import DEFAULT_MAX_LENGTH, TOKENIZER_INFINITY
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruning_core.errors import ComputationError, InputError
from pruning_core.evaluation.forward import LOGITS_BYTES
from pruning_core.evaluation.lm_eval.definitions import data_digest, set_few_shot
from pruning_core.evaluation.lm_eval.quiet import quiet
from pruning_core.evaluation.lm_eval.scores import Item
from pruning_core.model.context_length import context_length
from pruning_core.model.vocabulary import vocabulary_size
from pruning_core.progress import Progress, ignore_progress

Scored = list[tuple[float, bool]]
"""Per request (log-likelihood in nats, whether the answer is what the model would write)."""


@dataclass(frozen=True)
class Answers:
    """What a model answered to one lm-eval task.

    Args:
        items: in the order of the data.
        truncated: answers whose prompt lost its beginning because it is longer than the model's context.
        protocol: the lm-eval task's entry in `TaskProtocol.tasks`.
    """

    items: tuple[Item, ...]
    truncated: int
    protocol: dict[str, Any]


class Examinee(HFLM):  # type: ignore[misc]  # the harness has no types
    """A model that is loaded already, as the harness wants it, on the device where it is.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its own.
        batch: prompts per forward at most; fewer where the logits would exceed 1 GiB.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: int) -> None:
        special = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        self.has_prefix = special != (None, None)
        # The harness may give it a token to pad with; and prompts that do not fit are told by `truncated`.
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.model_max_length = TOKENIZER_INFINITY
        # What the harness takes for models that set no limit.
        length = context_length(model.config) or DEFAULT_MAX_LENGTH
        # The harness decodes the prefix even where it needs none.
        prefix = next((token for token in special if token is not None), 0)
        with quiet():
            super().__init__(
                model,
                tokenizer=tokenizer,
                backend="causal",
                batch_size=batch,
                max_length=length,
                prefix_token_id=prefix,
            )
        self.progress: Progress = ignore_progress
        self.truncated = 0
        self._batch = batch
        self._done = self._total = 0

    def _loglikelihood_tokens(self, requests: list[Any], disable_tqdm: bool = False, **kwargs: Any) -> Scored:
        for (context, answer), before, after in requests:
            if not context and not self.has_prefix:
                raise InputError("a prompt is empty and the tokenizer has no token to begin with; leave the task out")
            if not after or len(after) > self.max_length:
                raise InputError(
                    f"the answer {answer[:40]!r} has {len(after)} tokens of its own, and the model takes 1 to "
                    f"{self.max_length}; leave the task out"
                )
            self.truncated += len(before) + len(after) > self.max_length + 1
        longest = min(self.max_length, max(len(before) + len(after) - 1 for _, before, after in requests))
        row_bytes = longest * vocabulary_size(self.model) * 4
        self.batch_size_per_gpu = max(1, min(self._batch, LOGITS_BYTES // row_bytes))
        # Answers that differ in their last token alone are read off one forward.
        self._done, self._total = 0, len({(*before, *after[:-1]) for _, before, after in requests})
        scored: Scored = super()._loglikelihood_tokens(requests, disable_tqdm=True, **kwargs)
        return scored

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> Scored:
        """(log-likelihood in nats, whether it is what the model would write) of each request's answer."""
        scored: Scored = super().loglikelihood(requests, disable_tqdm=True)
        return scored

    def _model_call(self, inps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        logits: Tensor = super()._model_call(inps, *args, **kwargs)
        self._done += len(inps)
        self.progress(self._done, self._total)
        return logits


def answer(
    examinee: Examinee,
    task: ConfigurableTask,
    few_shot: int | None = None,
    limit: int | None = None,
    progress: Progress = ignore_progress,
) -> Answers:
    """The model's answers to an lm-eval task; only few-shot examples are drawn, with a fixed seed.

    Args:
        few_shot: examples before each item; None: as the definition of the lm-eval task says.
        limit: the first so many items; None: all.

    Raises:
        InputError: the model cannot be asked (see the message).
        ComputationError: a log-likelihood that is not finite.
    """
    name = task.task_name
    examinee.progress, examinee.truncated = progress, 0
    with quiet():
        shots = set_few_shot(task, few_shot)
        report = evaluate(examinee, {"tasks": {name: task}}, limit=limit, bootstrap_iters=0, log_samples=True)
        samples = report["samples"][name]
        items = tuple(_item(task, sample, place) for place, sample in enumerate(samples))
        protocol = {
            "version": str(report["versions"][name]),
            "few_shot": shots,
            "limit": limit,
            "items": len(items),
            "data": data_digest(task),
            "prompts": _prompts_digest(samples),
        }
    return Answers(items, examinee.truncated, protocol)


def _item(task: ConfigurableTask, sample: dict[str, Any], place: int) -> Item:
    name = task.task_name
    likelihoods = tuple(float(likelihood) for likelihood, _ in sample["filtered_resps"])
    if not all(map(math.isfinite, likelihoods)):
        raise ComputationError(f"a log-likelihood of item {place} of task {name} is not finite: {likelihoods}")
    if task.OUTPUT_TYPE != "multiple_choice":
        return Item(name, place, bool(sample["acc"]), None, likelihoods)
    choices = task.doc_to_choice(sample["doc"])
    # With mutual information the harness asks for the answers without their question as well.
    likelihoods = likelihoods[: len(choices)]
    values = np.array(likelihoods)
    likeliest = int(values.argmax())
    if "acc_norm" not in sample:
        return Item(name, place, bool(sample["acc"]), likeliest, likelihoods)
    normalised = int((values / np.array([float(len(choice)) for choice in choices])).argmax())
    return Item(name, place, bool(sample["acc"]), likeliest, likelihoods, bool(sample["acc_norm"]), normalised)


def _prompts_digest(samples: Sequence[dict[str, Any]]) -> str:
    """Hex SHA-256 of every prompt with its answers."""
    content = hashlib.sha256()
    for sample in samples:
        content.update(json.dumps([list(arguments) for arguments in sample["arguments"]]).encode() + b"\n")
    return content.hexdigest()
