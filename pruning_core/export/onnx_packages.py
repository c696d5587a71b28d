"""What an ONNX export is called and needs."""

import importlib.util

from pruning_core.errors import InputError

FILE = "model.onnx"
DATA = "model.onnx.data"
"""Beside it, with all weights."""
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
BLOCKED = "MatMulNBits"
"""ONNX Runtime's product with integers that have a scale per block of inputs."""
DOMAIN = "com.microsoft"


def is_installed() -> bool:
    """Whether models can be exported, read and run."""
    return all(importlib.util.find_spec(name) for name in PACKAGES)


def check_installed(what: str) -> None:
    """Raises InputError where they cannot; `what` begins its sentence."""
    if not is_installed():
        raise InputError(f"{what} needs {', '.join(PACKAGES)}; install them with pip install 'espalier[onnx]'")
