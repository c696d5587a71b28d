"""The sections `calibration` and `evaluation` of params.yaml: which texts, and how they are cut into windows."""

from dataclasses import field
from typing import Annotated, Any, Literal

import pydantic.dataclasses
from pydantic import Field

from pruning_core.registry import STRICT


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Calibration:
    """The text that statistics are taken from."""

    text: dict[str, Any]
    """A text source, {name: ...}."""
    sequences: Annotated[int, Field(ge=1)] = 128
    length: Annotated[int, Field(ge=2)] = 256
    """Tokens per sequence."""
    sampling: Literal["first", "spread", "documents"] = "spread"
    seed: int = 0
    """For sampling `documents`."""
    batch: Annotated[int, Field(ge=1)] | None = None
    """Sequences per forward; when absent as many as make 2,048 tokens."""


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Evaluation:
    """The held-out text and the protocol of its perplexity."""

    text: dict[str, Any]
    length: Annotated[int, Field(ge=2)] = 256
    """Tokens per window."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """Tokens from one window to the next, of which each window judges the last; when absent windows do not overlap."""
    bos: bool = False
    """Whether each window starts with the tokenizer's BOS, counted in `length`, so that its first token is judged."""
    windows: Annotated[int, Field(ge=1)] | None = None
    """How many; all when absent."""
    special_tokens: bool = False
    """Whether the tokenizer may put its special tokens before the text, once."""
    batch: Annotated[int, Field(ge=1)] = 16
    tasks: list[dict[str, Any]] = field(default_factory=list)
    """The lm-eval tasks that a model is evaluated on (`pruning_core.settings.lm_eval`); none when absent."""
    samples: dict[str, Any] | None = None
    """Prompts that every model continues (`pruning_core.settings.samples`); none when absent."""
