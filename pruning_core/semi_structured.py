"""PyTorch's 2:4: which matrices its kernels take, and a model whose linear layers run on them.

The kernels are those of GPUs from the NVIDIA A100 on (torch.sparse.to_sparse_semi_structured).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS

from pruning_core.errors import InputError
from pruning_core.sparse_container.entry import Matrix
from pruning_core.sparse_container.n_of_m import NOfM

Backend = Literal["cusparselt", "cutlass"]
MULTIPLES = {
    "cusparselt": {torch.float16: (16, 16), torch.bfloat16: (16, 16), torch.int8: (32, 32)},
    "cutlass": {torch.float16: (32, 64), torch.bfloat16: (32, 64), torch.int8: (16, 128)},
}
"""What rows and columns must be multiples of."""
CAPABILITY = (8, 0)


def misfit(weight: Tensor, backend: Backend = "cutlass") -> str | None:
    """Why a weight [out, in] cannot run as 2:4 along its inputs, as the end of a sentence; None where it can."""
    multiples = MULTIPLES[backend].get(weight.dtype)
    if multiples is None:
        return f"it is {weight.dtype}, and {backend} takes {', '.join(map(str, MULTIPLES[backend]))}"
    if weight.ndim != 2 or not weight.numel():
        return f"its shape {list(weight.shape)} is not that of a matrix"
    rows, columns = weight.shape
    if rows % multiples[0] or columns % multiples[1]:
        return (
            f"{backend} needs rows in multiples of {multiples[0]} and columns of {multiples[1]}, not {rows}x{columns}"
        )
    if int((weight != 0).view(-1, 4).sum(dim=1).max()) > 2:
        return "more than 2 of 4 weights are left somewhere"
    return None


def packed_2of4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The values and the places of a 2:4 matrix, before CUTLASS reorders them for its kernel.

    Args:
        weight: [rows, columns] float16 or bfloat16 of which at most 2 of 4 consecutive columns are not zero.

    Returns:
        values [rows, columns / 2]; places [rows, columns / 16] int16: of each four columns the place of the first value
        in the lower two of four bits, that of the second in the upper, the leftmost columns in the lowest bits.

    Raises:
        InputError: it is not 2:4, or its columns are no multiple of 16.
    """
    # Adding 0 makes zeros of the negative ones that a product with a mask leaves.
    matrix = Matrix(weight + 0.0)
    entry = NOfM.of(matrix, m=4, n=2) if weight.ndim == 2 and weight.shape[1] % 16 == 0 else None
    if entry is None or weight.itemsize != 2:
        raise InputError(
            "a matrix in 2:4 is of 16 bits, has columns in multiples of 16, and 2 of 4 of its weights left"
        )
    parts = entry.encode(matrix)
    return parts["values"], parts["indices"].view(torch.int16).view(len(weight), -1)


def to_semi_structured(model: nn.Module) -> dict[str, str]:
    """Replace the weights of the linear layers that fit by PyTorch's 2:4 tensors, in place.

    Args:
        model: on a CUDA device, in float16 or bfloat16, for inference.

    Returns:
        Name of each layer that stays dense -> why, as the end of a sentence.

    Raises:
        InputError: no such device, or no layer fits; the model is unchanged.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    _check_device({module.weight.device for module in linears.values()})
    backend = "cusparselt" if torch.backends.cusparselt.is_available() else "cutlass"
    reasons = {name: misfit(module.weight, backend) for name, module in linears.items()}
    if None not in reasons.values():
        name, reason = next(iter(reasons.items()), ("the model", "it has no linear layer"))
        raise InputError(f"no linear layer can run as 2:4; {name}: {reason}")
    for name, module in linears.items():
        if reasons[name] is None:
            sparse = _tensors(backend).from_dense(module.weight.detach().contiguous())
            module.weight = nn.Parameter(sparse, requires_grad=False)
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _tensors(backend: Backend) -> type[Tensor]:
    # to_sparse_semi_structured itself takes cuSPARSELt, even where that library is not there.
    return SparseSemiStructuredTensorCUTLASS if backend == "cutlass" else SparseSemiStructuredTensorCUSPARSELT


def _check_device(devices: set[torch.device]) -> None:
    others = sorted(str(device) for device in devices if device.type != "cuda")
    if others:
        raise InputError(
            f"PyTorch has 2:4 kernels for CUDA only, and the model is on {others[0]}; move it to a GPU, or run it dense"
        )
    for device in devices:
        found = torch.cuda.get_device_capability(device)
        if found < CAPABILITY:
            raise InputError(
                f"2:4 kernels need compute capability {CAPABILITY[0]}.{CAPABILITY[1]} (A100 or newer), and {device} has"
                f" {found[0]}.{found[1]}; run the model dense"
            )
