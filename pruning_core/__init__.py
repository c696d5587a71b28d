"""The mathematics and the model handling of Espalier; knows no orchestrator."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruning_core.calibration.statistics import LayerStatistics
    from pruning_core.compress.method import CompressedLayer
    from pruning_core.settings.method import compress_layer

__all__ = ["CompressedLayer", "LayerStatistics", "compress_layer"]

_HOMES = {
    "CompressedLayer": "pruning_core.compress.method",
    "LayerStatistics": "pruning_core.calibration.statistics",
    "compress_layer": "pruning_core.settings.method",
}


def __getattr__(name: str) -> Any:
    # Torch takes seconds to import; what only needs an error class or a setting must not wait for it.
    if name not in _HOMES:
        raise AttributeError(f"module 'pruning_core' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
