"""Where and in what precision a model runs while it is calibrated."""

from dataclasses import dataclass
from typing import Literal

import pydantic.dataclasses
import torch

from pruning_core.errors import InputError
from pruning_core.registry import STRICT


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Compute:
    """The section `compute` of params.yaml.

    device: auto is a CUDA device where there is one, otherwise the CPU.
    dtype: of weights and hidden states in forward passes; statistics and solvers are float32 whatever it is.
    states: where the hidden states between two blocks are kept; a mapped file leaves the memory to the system.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    states: Literal["memory", "mapped"] = "memory"

    @property
    def target(self) -> str:
        """cpu or cuda, whether or not it is there."""
        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.device

    def running(self) -> "Running":
        """What of it changes results.

        Raises:
            InputError: a device that is not there.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("compute.device is cuda, but torch finds no CUDA device; set it to auto or cpu")
        return Running(self.target, self.dtype)


@dataclass(frozen=True)
class Running:
    """How a model runs; two of them may differ in the last bits of a result."""

    device: str = "cpu"
    dtype: str = "float32"

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)
