"""A model's forward that begins at a block, on hidden states that were kept: what lies before is not run again."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from pruning_core.model.decoder import Decoder


class ResumedForward:
    """Runs a whole decoder from any of its blocks to the logits.

    Args:
        decoder: by `load_whole`. Its matrices may change between calls.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._returned: int | None = None
        """How many values this architecture's blocks return in a tuple; 0: the hidden states alone."""

    @torch.no_grad()
    def logits(self, tokens: Tensor, index: int, hidden: Tensor) -> Tensor:
        """[batch, length, vocabulary] in the decoder's dtype.

        Args:
            tokens: [batch, length] int64; masks and positions are made for them.
            index: of the first block that runs.
            hidden: [batch, length, width] that enters it.
        """
        decoder = self._decoder
        with self._skipping(index, self._as_returned(tokens, hidden.to(decoder.device))):
            logits: Tensor = decoder.model(input_ids=tokens.to(decoder.device), use_cache=False).logits
            return logits

    @contextmanager
    def _skipping(self, index: int, returned: Any) -> Iterator[None]:
        """Let the blocks before `index` return this and do nothing."""
        with ExitStack() as stack:
            for block in self._decoder.blocks[:index]:
                block.forward = lambda *args, **kwargs: returned
                stack.callback(delattr, block, "forward")
            yield

    def _as_returned(self, tokens: Tensor, hidden: Tensor) -> Any:
        if self._returned is None:
            first = self._decoder.calls(tokens)[0]
            out = self._decoder.blocks[0](hidden, *first.args, **first.kwargs)
            self._returned = len(out) if isinstance(out, tuple) else 0
        return (hidden, *[None] * (self._returned - 1)) if self._returned else hidden
