"""The weights of one block at a time, from a model in memory or on disk."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from pruning_core.model.decoder import Decoder, matrix


@contextmanager
def loaded_matrices(decoder: Decoder, index: int) -> Iterator[dict[str, Tensor]]:
    """Matrix -> [out, in], in the decoder's dtype; a block that was not in memory leaves it again."""
    absent = next(decoder.blocks[index].parameters()).is_meta
    if absent:
        decoder.load_block(index)
    try:
        yield {name: matrix(module) for name, module in decoder.linears(index).items()}
    finally:
        if absent:
            decoder.drop_block(index)
