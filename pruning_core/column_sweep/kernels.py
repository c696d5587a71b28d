"""Which kernel fixes the columns of a block: by name, or the fastest one on a device."""

import importlib
from importlib.util import find_spec

import torch

from pruning_core.column_sweep import Kernel
from pruning_core.errors import InputError
from pruning_core.registry import nearest

KERNELS = ("numba", "torch", "triton")


def kernel_name(name: str, device: torch.device) -> str:
    """The kernel that `name` means on the device; "auto" is the fastest one. Nothing is imported or compiled.

    Raises:
        InputError: unknown name, or a kernel that does not run there.
    """
    if name == "auto":
        return "numba" if device.type == "cpu" else "triton" if device.type == "cuda" and _triton_exists() else "torch"
    if name not in KERNELS:
        raise InputError(
            f"{name!r} is not a known kernel{nearest(name, list(KERNELS))}; known: auto, {', '.join(KERNELS)}"
        )
    if name == "numba" and device.type != "cpu":
        raise InputError(f"the numba kernel runs on the CPU, not on {device.type}; use kernel torch")
    if name == "triton":
        _check_triton(device)
    return name


def kernel_for(name: str, device: torch.device) -> Kernel:
    """The kernel of that name, ready to run; see `kernel_name`."""
    module = importlib.import_module(f"pruning_core.column_sweep.{kernel_name(name, device)}_kernel")
    kernel: Kernel = module.fix_columns
    return kernel


def _triton_exists() -> bool:
    # Builds of torch for CUDA bring it; elsewhere it is no requirement.
    return find_spec("triton") is not None


def _check_triton(device: torch.device) -> None:
    if not _triton_exists():
        raise InputError("the triton kernel needs the package triton, which is not installed; use kernel auto")
    from pruning_core.column_sweep import triton_kernel

    if device.type != "cuda" and not triton_kernel.INTERPRETED:
        raise InputError(
            f"the triton kernel runs on a GPU, not on {device.type}; use kernel auto, "
            "or set TRITON_INTERPRET=1 to have it interpreted, which is slow"
        )
