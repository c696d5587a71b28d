"""What an ONNX export is called and needs."""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator

import torch

from pruning_core.errors import InputError

FILE = "model.onnx"
DATA = "model.onnx.data"
"""Beside it, with all weights."""
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
BLOCKED = "MatMulNBits"
"""ONNX Runtime's product with integers that have a scale per block of inputs."""
DOMAIN = "com.microsoft"
TORCH = {1: torch.float32, 2: torch.uint8, 10: torch.float16, 16: torch.bfloat16}
"""ONNX's number of a type -> torch's name of it; of those in our files."""


def is_installed() -> bool:
    """Whether models can be exported, read and run."""
    return all(importlib.util.find_spec(name) for name in PACKAGES)


def check_installed(what: str) -> None:
    """Raises InputError where they cannot; `what` begins its sentence."""
    if not is_installed():
        raise InputError(f"{what} needs {', '.join(PACKAGES)}; install them with pip install 'espalier[onnx]'")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what these packages tell while they work, such as their own deprecations."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
