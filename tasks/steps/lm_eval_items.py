"""Step: cut a text into items of the lm-eval task that asks which continuation follows."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pruning_core.evaluation.lm_eval.continuations import Shape, continuation_items
from tasks.engine.step import Context, step
from tasks.steps.tokens import read_text, text_module
from tasks.store.artifact import Artifact

ITEMS = "items.jsonl"


@dataclass(frozen=True, kw_only=True)
class LmEvalItemsParams:
    """A text and how items are cut from it.

    Args:
        text: a text source.
        text_digest: of the text as it is now.
        items: how many.
        context, continuation: tokens.
        choices: continuations to choose from.
        seed: of the choice.
    """

    text: dict[str, Any]
    text_digest: str
    items: int
    context: int
    continuation: int
    choices: int
    seed: int
    trust_remote_code: bool


@step("task_items", modules=lambda params: text_module(params.text))
def lm_eval_items(
    params: LmEvalItemsParams, inputs: dict[str, Artifact], out: Path, context: Context
) -> dict[str, Any]:
    """Items {context, choices, label} cut from a text in the source model's tokens.

    inputs: source.
    writes: items.jsonl.
    """
    shape = Shape(params.items, params.context, params.continuation, params.choices)
    documents, tokenizer = read_text(params, shape.length, inputs["source"], context)
    items = continuation_items(documents, tokenizer, shape, params.seed)
    (out / ITEMS).write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return asdict(shape) | {"seed": params.seed, "source": dict(documents.source), "text_digest": documents.digest}
