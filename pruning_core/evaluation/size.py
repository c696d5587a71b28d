"""Size of a stored model, counted on the files themselves.

Zeros are counted, not credited: a matrix stored dense is as large with zeros as without.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.errors import InputError
from pruning_core.export import Tensors
from pruning_core.export.stored.recognise import format_of, is_plain, weight_bytes
from pruning_core.progress import Progress, ignore_progress


def model_size(
    path: Path | str,
    *,
    prunable: Collection[str] | None = None,
    parameters: int | None = None,
    progress: Progress = ignore_progress,
) -> dict[str, Any]:
    """Bytes and zeros of a model directory, as JSON; reads one tensor at a time.

    Args:
        prunable: names of the weights that compression may touch; adds their own count.
        parameters: how many parameters the model stands for, where they are not stored one by one.

    Returns:
        `file_bytes` (weight files), `tensor_bytes` (without headers), `packed_bytes` (integer tensors: codes,
        masks, indices), `parameters` and `zeros` (stored floating point numbers), `zero_fraction`,
        `bits_per_weight` (tensor bytes over parameters; None where packed tensors hide their number and
        `parameters` is not given), and `prunable` {parameters, zeros, zero_fraction}.

    Raises:
        InputError: an unreadable directory, or a prunable name that is not stored as floating point.
    """
    if not is_plain(Path(path)):
        return _exported_size(Path(path), progress)
    checkpoint = Checkpoint(path)
    counts = _count(checkpoint, progress)
    if missing := sorted(set(prunable or ()) - set(counts)):
        raise InputError(f"{path} holds no floating point tensor {missing[0]!r}; name stored weights")
    tensor_bytes = sum(checkpoint.bytes(name) for name in checkpoint.names())
    packed = tensor_bytes - sum(checkpoint.bytes(name) for name in counts)
    stored = _total(counts, counts)
    count = parameters if parameters is not None else (stored["parameters"] if packed == 0 else None)
    size = {
        "file_bytes": sum(file.stat().st_size for file in checkpoint.files),
        "tensor_bytes": tensor_bytes,
        "packed_bytes": packed,
        "bits_per_weight": 8 * tensor_bytes / count if count else None,
        **stored,
    }
    if prunable is not None:
        size["prunable"] = _total(counts, prunable)
    return size


def _exported_size(path: Path, progress: Progress) -> dict[str, Any]:
    """The same of an export: its numbers are those that its reader gives, its bytes those of its files."""
    stored = _total(counts := _count(format_of(path).read(path), progress), counts)
    size = weight_bytes(path)
    parameters = stored["parameters"]
    bits = 8 * size / parameters if parameters else None
    return {"file_bytes": size, "tensor_bytes": size, "packed_bytes": size, "bits_per_weight": bits, **stored}


def _count(checkpoint: Tensors, progress: Progress) -> dict[str, tuple[int, int]]:
    """Name -> (numbers, zeros) of every floating point tensor."""
    counts = {}
    names = checkpoint.names()
    for done, name in enumerate(names, start=1):
        tensor = checkpoint.load(name)
        if tensor.dtype.is_floating_point:
            # One-byte floats have no comparison of their own.
            values = tensor.float() if tensor.itemsize == 1 else tensor
            counts[name] = (tensor.numel(), tensor.numel() - int(values.count_nonzero()))
        progress(done, len(names))
    return counts


def _total(counts: dict[str, tuple[int, int]], names: Collection[str]) -> dict[str, Any]:
    parameters = sum(counts[name][0] for name in names)
    zeros = sum(counts[name][1] for name in names)
    fraction = zeros / parameters if parameters else None
    return {"parameters": parameters, "zeros": zeros, "zero_fraction": fraction}
