"""Where and in what precision a model runs while it is calibrated."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pydantic.dataclasses
import torch
from pydantic import BeforeValidator, Field, model_validator

from pruning_core.errors import InputError
from pruning_core.registry import STRICT


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Workers:
    """Where candidates of a search, or variants, are worked on side by side; the result is the same whatever it is.

    name: threads or processes of this machine, or a cluster of dask or ray.
    count: how many; when absent one per core, or one where models run on a CUDA device.
    address: of a running cluster; when absent one is started on this machine.
    """

    name: Literal["threads", "processes", "dask", "ray"] = "threads"
    count: Annotated[int, Field(ge=1)] | None = None
    address: str | None = None

    @model_validator(mode="after")
    def _address_of_a_cluster(self) -> "Workers":
        if self.address is not None and self.name not in ("dask", "ray"):
            raise ValueError(f"address is of a dask or ray cluster, workers here are {self.name}; remove it")
        return self

    @property
    def number(self) -> int:
        """How many workers on this machine."""
        return self.count or len(os.sched_getaffinity(0))


def _workers(value: Any) -> Any:
    # Strict fields take no mapping for a dataclass.
    return Workers(**value) if isinstance(value, Mapping) else value


REMOVED = {
    "shard_workers": "was removed, for it made calibration slower; remove the key, and start one process for each of "
    "compute.shards with torchrun: torchrun --standalone --nproc-per-node N --no-python espalier ..."
}
"""Keys that the section no longer has, and what takes their place."""


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Compute:
    """The section `compute` of params.yaml.

    device: auto is a CUDA device where there is one, otherwise the CPU.
    dtype: of weights and hidden states in forward passes; statistics and solvers are float32 whatever it is.
    states: where the hidden states between two blocks are kept; a mapped file leaves the memory to the system.
    workers: of a search.
    variants: workers that make the variants of a comparison, a sweep or a scheduled run; when absent this process makes
        one after another.
    shards: parts of the calibration windows that are summed apart and then added up; under `torchrun` one process runs
        each. It changes the last bits of statistics, so one process with as many shards has the same result.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    states: Literal["memory", "mapped"] = "memory"
    workers: Annotated[Workers, BeforeValidator(_workers)] = field(default_factory=Workers)
    variants: Annotated[Workers | None, BeforeValidator(_workers)] = None
    shards: Annotated[int, Field(ge=1)] = 1

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
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype
