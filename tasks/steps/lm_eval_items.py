"""Step: a text becomes items of the task that asks what follows."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pruning_core.checkpoint.model_files import read_config, read_tokenizer
from pruning_core.evaluation.lm_eval.continuations import Shape, continuation_items
from pruning_core.model.context_length import check_fits
from pruning_core.text import TEXTS
from tasks.engine.step import Context, step
from tasks.steps.tokens import text_module
from tasks.store.artifact import Artifact

ITEMS = "items.jsonl"


@step("task_items", modules=text_module)
def task_items(params: dict[str, Any], inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """Items {context, choices, label} cut from a text in the source model's tokens.

    params: text, text_digest (of the text as it is now), items, context, continuation, choices, seed,
        trust_remote_code.
    inputs: source.
    writes: items.jsonl.
    """
    trust = params["trust_remote_code"]
    shape = Shape(*(params[name] for name in ("items", "context", "continuation", "choices")))
    check_fits(read_config(inputs["source"].path, trust_remote_code=trust), shape.length)
    tokenizer = read_tokenizer(inputs["source"].path, trust_remote_code=trust)
    documents = TEXTS.build(params["text"]).read(context.workspace)
    items = continuation_items(documents, tokenizer, shape, params["seed"])
    (out / ITEMS).write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return asdict(shape) | {"seed": params["seed"], "source": dict(documents.source), "text_digest": documents.digest}
