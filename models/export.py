"""Export of a training state: the model in half precision, the tokenizer, the curve and the model card."""

import copy
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from corpus import pack_documents
from model_card import card, plot
from training import Settings, State
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pruning_core.errors import InputError
from pruning_core.evaluation.perplexity import perplexity
from pruning_core.text import Documents
from pruning_core.text.tokenized.windows import evaluation_windows

DTYPES = (torch.float16, torch.bfloat16)
EVALUATION_ROWS = 8
PROMPT = "def read_lines(path):\n    "


def write_model(
    state: State,
    settings: Settings,
    tokenizer: PreTrainedTokenizerFast,
    splits: Mapping[str, Documents],
    target: Path,
) -> str:
    """Write the model, tokenizer, curve and card to the folder `target`, replacing a model that is there.

    The weights are rounded to float16 or bfloat16, whichever has the validation perplexity closer to
    float32's.

    Args:
        splits: documents of `train`, `validation` and `test`.

    Returns:
        one line for the person: where it is, the data type, and both perplexities.

    Raises:
        InputError: `target` holds something that is not a model.
    """
    if target.exists() and any(target.iterdir()) and not (target / "config.json").is_file():
        raise InputError(f"{target} holds files and no model; name an empty folder")
    values = rounded_perplexities(state.model, settings, tokenizer, splits["validation"])
    dtype = min(DTYPES, key=lambda choice: abs(values[choice] - values[torch.float32]))
    model = copy.deepcopy(state.model).to(dtype)
    model.config.use_cache = True
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    facts = {
        **training_facts(state, settings, splits),
        "dtype": name_of(dtype),
        "train_tokens": len(pack_documents(splits["train"], tokenizer.backend_tokenizer)),
        "rounding": {name_of(choice): value for choice, value in values.items()},
        "heldout": quality(model, settings, tokenizer, splits),
        "sample": continuation(model, tokenizer),
    }
    (partial / "training_curve.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    plot(state.curve, partial / "training_curve.svg")
    (partial / "README.md").write_text(card(facts, target), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in facts["rounding"].items())
    return f"{target}: step {state.step}, {name_of(dtype)}; validation perplexity {shown}"


def rounded_perplexities(
    model: LlamaForCausalLM, settings: Settings, tokenizer: PreTrainedTokenizerFast, documents: Documents
) -> dict[torch.dtype, float]:
    """Validation perplexity in float32 of the weights as they are, and rounded to every one of DTYPES."""
    windows = evaluation_windows(documents, tokenizer, length=settings.context, windows=None).tokens
    return {
        dtype: perplexity(copy.deepcopy(model).to(dtype).float(), windows, EVALUATION_ROWS).value
        for dtype in (torch.float32, *DTYPES)
    }


def quality(
    model: LlamaForCausalLM,
    settings: Settings,
    tokenizer: PreTrainedTokenizerFast,
    splits: Mapping[str, Documents],
) -> list[dict[str, Any]]:
    """Perplexity of the stored weights on validation and test, in windows of half and of all the context."""
    exact = copy.deepcopy(model).float()
    rows = []
    for split in ("validation", "test"):
        for length in (settings.context // 2, settings.context):
            windows = evaluation_windows(splits[split], tokenizer, length=length, windows=None).tokens
            rows.append({"split": split, "length": length, **perplexity(exact, windows, EVALUATION_ROWS).facts()})
    return rows


def training_facts(state: State, settings: Settings, splits: Mapping[str, Documents]) -> dict[str, Any]:
    """What training_curve.json says besides the held-out perplexities."""
    return {
        "step": state.step,
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "settings": asdict(settings),
        "decay_start": settings.decay_start,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "splits": {
            name: {**documents.source, "digest": documents.digest, "characters": len(documents.text)}
            for name, documents in splits.items()
        },
        "curve": state.curve,
    }


def name_of(dtype: torch.dtype) -> str:
    """float16 for torch.float16."""
    return str(dtype).removeprefix("torch.")


def continuation(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tokens: int = 64) -> str:
    """PROMPT with the model's greedy continuation in float32."""
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    exact = copy.deepcopy(model).float()
    with torch.inference_mode():
        for _ in range(tokens):
            ids = torch.cat([ids, exact(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    return tokenizer.decode(ids[0])
