"""Small samples of calibration windows out of one large draw, so that a long text is made tokens once."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from pruning_core.settings.recipe import Settings
from pruning_core.text.tokenized.windows import token_digest
from tasks.engine.step import Context, step
from tasks.pipeline.variant import Pipeline
from tasks.steps.hidden_states import load_tokens
from tasks.store.artifact import Artifact


@dataclass(frozen=True, kw_only=True)
class SomeParams:
    """Parameters of `some`."""

    windows: int


@step("some of the tokens")
def some(params: SomeParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """Windows that are evenly spread over those of the input.

    inputs: tokens.
    writes: tokens.safetensors {tokens: [windows, length] int64}.
    """
    drawn = load_tokens(inputs["tokens"])
    count = params.windows
    kept = drawn[[place * len(drawn) // count for place in range(count)]].contiguous()
    save_file({"tokens": kept}, out / "tokens.safetensors")
    return inputs["tokens"].facts | {"windows": count, "token_digest": token_digest(kept)}


class OneDraw(Pipeline):
    """A pipeline whose calibration windows are some of a larger draw: numbers that divide each other are nested.

    Args:
        context, settings: as of a pipeline.
        drawn: windows of the draw, at least as many as the settings ask for.
    """

    def __init__(self, context: Context, settings: Settings, *, drawn: int) -> None:
        super().__init__(context, settings)
        self.drawn = drawn

    @cached_property
    def calibration(self) -> Artifact:
        calibration = self.settings.calibration
        whole = self.calibration_windows(replace(calibration, sequences=self.drawn), "calibration")
        return self.context.run(
            some, SomeParams(windows=calibration.sequences), {"tokens": whole}, "calibration windows"
        )
