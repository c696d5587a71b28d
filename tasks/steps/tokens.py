"""Step: cut a text into windows of tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from pruning_core.checkpoint.model_files import read_config, read_tokenizer
from pruning_core.model.context_length import check_fits
from pruning_core.text import TEXTS, Documents
from pruning_core.text.tokenized.windows import Windows, calibration_windows, evaluation_windows
from tasks.engine.step import Context, step
from tasks.store.artifact import Artifact

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class TokensParams:
    """A text and how it is cut.

    Args:
        role: calibration or evaluation.
        text: a text source.
        text_digest: of the text as it is now.
        length: tokens per window.
        sequences, sampling, seed: of calibration windows.
        windows, stride, special_tokens, bos: of evaluation windows, as in params.yaml.
    """

    role: str
    text: dict[str, Any]
    text_digest: str
    length: int
    trust_remote_code: bool
    sequences: int | None = None
    sampling: str | None = None
    seed: int | None = None
    windows: int | None = None
    stride: int | None = None
    special_tokens: bool | None = None
    bos: bool | None = None


def text_module(text: dict[str, Any]) -> list[str]:
    """The module of a text source."""
    return [TEXTS.module(text["name"])]


def read_text(
    params: Any, length: int, source: Artifact, context: Context
) -> tuple[Documents, "PreTrainedTokenizerBase"]:
    """The text of a step's params, and the tokenizer of a model that windows of `length` tokens must fit.

    Raises:
        InputError: the model's context is shorter, or the text cannot be read.
    """
    trust = params.trust_remote_code
    check_fits(read_config(source.path, trust_remote_code=trust), length)
    tokenizer = read_tokenizer(source.path, trust_remote_code=trust)
    return TEXTS.build(params.text).read(context.workspace), tokenizer


@step("tokens", modules=lambda params: text_module(params.text))
def tokens(params: TokensParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """Windows of a text in the source model's tokens.

    inputs: source.
    writes: tokens.safetensors {tokens: [windows, length] int64}.
    """
    documents, tokenizer = read_text(params, params.length, inputs["source"], context)
    windows = _windows(params, documents, tokenizer)
    save_file({"tokens": windows.tokens}, out / "tokens.safetensors")
    return windows.facts


def _windows(params: TokensParams, documents: Documents, tokenizer: "PreTrainedTokenizerBase") -> Windows:
    if params.role == "calibration":
        return calibration_windows(
            documents,
            tokenizer,
            sequences=params.sequences,
            length=params.length,
            sampling=params.sampling,
            seed=params.seed,
        )
    return evaluation_windows(
        documents,
        tokenizer,
        length=params.length,
        windows=params.windows,
        special_tokens=params.special_tokens,
        stride=params.stride,
        bos=params.bos,
    )
