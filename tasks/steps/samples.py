"""Step: continue given prompts with a model, and compare with the dense model's continuations."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from pruning_core.checkpoint.model_files import read_tokenizer
from pruning_core.evaluation.greedy import SampleProtocol, agreement, continue_greedily, parts, shared_start
from pruning_core.settings.compute import Running
from pruning_core.source import load_model
from pruning_core.text.tokenized.windows import token_ids
from tasks.engine.step import Context, step
from tasks.progress import progress
from tasks.steps.hidden_states import load_tokens
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import write_json

SAMPLES = "samples.json"


@dataclass(frozen=True, kw_only=True)
class SamplesParams:
    """Prompts of the dense model; other models take its.

    Args:
        new_tokens: how many are written after each.
        windows: how many evaluation windows give a prompt.
        beginning: how many of their first tokens.
        texts: prompts in place of windows.
        special_tokens: whether the tokenizer may put its own before a text.
    """

    trust_remote_code: bool
    device: str
    new_tokens: int | None = None
    windows: int | None = None
    beginning: int | None = None
    texts: list[str] | None = None
    special_tokens: bool | None = None


@step("samples")
def samples(params: SamplesParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """Greedy continuations in float32, and how far they are the dense model's.

    inputs: model; of the dense model tokens (the evaluation windows) unless texts are given; of any other baseline
        (the dense model's samples, whose prompts it takes).
    writes: samples.json {prompts, continuations}, see docs/formats.md.
    """
    path, trust = inputs["model"].path, params.trust_remote_code
    tokenizer = read_tokenizer(path, trust_remote_code=trust)
    dense = inputs.get("baseline")
    prompts = read_samples(dense)["prompts"] if dense else _prompts(params, inputs, tokenizer)
    new_tokens = dense.facts["new_tokens"] if dense else params.new_tokens
    model: nn.Module = load_model(path, trust_remote_code=trust).to(Running(params.device).torch_device)
    given = [prompt["tokens"] for prompt in prompts]
    written = continue_greedily(model, given, new_tokens, progress("samples"))
    theirs = [entry["tokens"] for entry in read_samples(dense)["continuations"]] if dense else written
    continuations = [
        _continuation(tokenizer, prompt, tokens, shared_start(tokens, other))
        for prompt, tokens, other in zip(given, written, theirs, strict=True)
    ]
    write_json(out / SAMPLES, {"prompts": prompts, "continuations": continuations})
    protocol = SampleProtocol.of(given, new_tokens)
    return {
        "windows": [prompt["window"] for prompt in prompts],
        "new_tokens": new_tokens,
        "agreement": agreement(written, theirs),
        "protocol": protocol.facts() | {"digest": protocol.digest},
    }


def read_samples(artifact: Artifact) -> dict[str, Any]:
    """The prompts and continuations of a samples artifact."""
    return json.loads((artifact.path / SAMPLES).read_text())


def _continuation(
    tokenizer: PreTrainedTokenizerBase, prompt: list[int], tokens: list[int], shared: int
) -> dict[str, Any]:
    return {"tokens": tokens, "shared": shared, "text": list(parts(tokenizer, prompt, tokens, shared))}


def _prompts(
    params: SamplesParams, inputs: dict[str, Artifact], tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """{window, tokens, text, follows}; `follows` is how the window goes on, None of a prompt that was given."""
    if params.texts is not None:
        cut = [(None, token_ids(tokenizer, text, special_tokens=params.special_tokens), []) for text in params.texts]
    else:
        windows, beginning, end = (
            load_tokens(inputs["tokens"]),
            params.beginning,
            params.beginning + params.new_tokens,
        )
        places = [place * len(windows) // params.windows for place in range(params.windows)]
        rows = [windows[window].tolist() for window in places]
        cut = [(window, row[:beginning], row[beginning:end]) for window, row in zip(places, rows, strict=True)]
    return [
        {
            "window": window,
            "tokens": tokens,
            "text": "".join(parts(tokenizer, [], tokens, 0)),
            "follows": "".join(parts(tokenizer, tokens, rest, 0)) if rest else None,
        }
        for window, tokens, rest in cut
    ]
