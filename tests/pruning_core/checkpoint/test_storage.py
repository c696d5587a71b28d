"""Honest sizes, against the arithmetic of the literature."""

import pytest

from pruning_core.checkpoint.packed_size import packed_bits

SHAPE = {"rows": 64, "columns": 128}


@pytest.mark.parametrize(
    ("removed", "bits", "groups", "expected"),
    [
        # Half of the 16-bit values and a mask: 9 bits a weight.
        (0.5, None, None, 9.0),
        (0.75, None, None, 5.0),
        (0.0, None, None, 16.0),
        # Half of the 4-bit values, a mask, and a scale and zero point for each row of 128.
        (0.5, 4, 1, 3.0 + 20 / 128),
        (0.0, 4, 2, 4.0 + 2 * 20 / 128),
    ],
)
def test_bits_per_weight_count_masks_scales_and_zero_points(removed, bits, groups, expected):
    size = SHAPE["rows"] * SHAPE["columns"]
    layer = {**SHAPE, "removed": int(removed * size), "bits": bits, "groups": groups}
    assert packed_bits(layer, 16) / size == pytest.approx(expected)
