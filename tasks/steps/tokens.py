"""Step: a text becomes windows of tokens."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from pruning_core.checkpoint.model_files import read_config, read_tokenizer
from pruning_core.model.context_length import check_fits
from pruning_core.text import TEXTS
from pruning_core.text.tokenized.windows import Windows, calibration_windows, evaluation_windows
from tasks.engine.step import Context, step
from tasks.store.artifact import Artifact


def text_module(params: dict[str, Any]) -> list[str]:
    """The module of the text source that these params choose."""
    return [TEXTS.module(params["text"]["name"])]


@step("tokens", modules=text_module)
def tokens(params: dict[str, Any], inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """Windows of a text in the source model's tokens.

    params: text, text_digest (of the text as it is now), role (calibration | evaluation), length, and what the role
        needs: sequences, sampling, seed; or windows, special_tokens, stride, bos.
    inputs: source.
    writes: tokens.safetensors {tokens: [windows, length] int64}.
    """
    trust = params["trust_remote_code"]
    check_fits(read_config(inputs["source"].path, trust_remote_code=trust), params["length"])
    tokenizer = read_tokenizer(inputs["source"].path, trust_remote_code=trust)
    documents = TEXTS.build(params["text"]).read(context.workspace)
    windows = _windows(params, documents, tokenizer)
    save_file({"tokens": windows.tokens}, out / "tokens.safetensors")
    return windows.facts


def _windows(params: dict[str, Any], documents: Any, tokenizer: Any) -> Windows:
    if params["role"] == "calibration":
        return calibration_windows(
            documents,
            tokenizer,
            sequences=params["sequences"],
            length=params["length"],
            sampling=params["sampling"],
            seed=params["seed"],
        )
    return evaluation_windows(
        documents,
        tokenizer,
        length=params["length"],
        windows=params["windows"],
        special_tokens=params["special_tokens"],
        stride=params["stride"],
        bos=params["bos"],
    )
