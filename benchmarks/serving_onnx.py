"""ONNX Runtime's own dynamic quantization, beside the integers that this package writes."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

from pruning_core.export.onnx_packages import FILE


def to_int8(source: Path, out: Path) -> Path:
    """The float32 export with its matrices in int8, a scale per output; activations are rounded as they come."""
    with _quiet():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        out.mkdir()
        # Unsigned as the activations are: products with signed ones saturate on processors without VNNI.
        kind = {"weight_type": QuantType.QUInt8, "per_channel": True, "op_types_to_quantize": ["MatMul"]}
        quantize_dynamic(source / FILE, out / FILE, use_external_data_format=True, **kind)
    return out


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizers tell of every node through a logger that they set up for the whole process when they are
    imported."""
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)
