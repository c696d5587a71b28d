"""ONNX Runtime's own dynamic quantization, beside the integers that this package writes."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from pruning_core.export.onnx.packages import FILE, quiet


def to_int8(source: Path, out: Path) -> Path:
    """The float32 export with its matrices in int8, a scale per output; activations are rounded as they come."""
    with quiet(), _logging_kept():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        out.mkdir()
        # Unsigned as the activations are: products with signed ones saturate on processors without VNNI.
        kind = {"weight_type": QuantType.QUInt8, "per_channel": True, "op_types_to_quantize": ["MatMul"]}
        quantize_dynamic(source / FILE, out / FILE, use_external_data_format=True, **kind)
    return out


@contextlib.contextmanager
def _logging_kept() -> Iterator[None]:
    """The quantizers set up a logger for the whole process when they are imported."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
