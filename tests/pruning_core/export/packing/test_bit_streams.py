"""Integers of a few bits in 32-bit words."""

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_variants import slow_values
from torch import Tensor

from pruning_core.export.packing import bit_streams
from pruning_core.export.packing.bit_streams import pack_bits, unpack_bits


@st.composite
def integers(draw: st.DrawFn) -> tuple[Tensor, int]:
    bits, rows, count = draw(st.integers(1, 8)), draw(st.integers(1, 5)), draw(st.integers(1, 70))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return torch.randint(0, 2**bits, (rows, count), generator=generator, dtype=torch.uint8), bits


@given(integers())
@settings(deadline=None, max_examples=60)
def test_the_words_of_a_row_are_one_number_with_the_first_value_lowest(drawn: tuple[Tensor, int]):
    values, bits = drawn
    words = pack_bits(values, bits)
    assert words.dtype == torch.int32
    for row, kept in zip(values, words, strict=True):
        assert slow_values(kept, bits, len(row)) == row.tolist()
    assert torch.equal(unpack_bits(words, bits, values.shape[1]), values)


@given(integers())
@settings(deadline=None, max_examples=40)
def test_the_compressed_tensors_library_makes_the_same_words(drawn: tuple[Tensor, int]):
    values, bits = drawn
    signed = (values.to(torch.int16) - 2 ** (bits - 1)).to(torch.int8)
    assert torch.equal(pack_bits(values, bits), pack_to_int32(signed, bits))


def test_a_matrix_that_is_packed_in_pieces_has_the_same_words(monkeypatch):
    values = torch.randint(0, 8, (50, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    whole = pack_bits(values, 3)
    monkeypatch.setattr(bit_streams, "PIECE", 120)
    assert torch.equal(pack_bits(values, 3), whole) and torch.equal(unpack_bits(whole, 3, 40), values)
