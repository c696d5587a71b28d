"""Checkpoints in which several packed tensors stand for one matrix, written so that a killed write goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from pruning_core.checkpoint.sharded_writer import ShardedWriter
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.checkpoint.streamed_writer import write_streamed
from pruning_core.progress import Progress


def packed_matrix(
    parts: dict[str, Tensor], stored: Tensor, scale: Tensor
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What stands for a matrix, and what is told of it.

    Args:
        parts: stored name -> tensor.
        stored, scale: [rows, groups], the scales as the file has them and as the grid does.
    """
    change = float((stored.float() / scale - 1).abs().max())
    return parts, {"change": change, "bytes": sum(part.nbytes for part in parts.values())}


def write_packed(
    model: StoredModel, out: Path, make: Callable[[str], tuple[Any, ...]], progress: Progress
) -> dict[str, Any]:
    """Write all tensors of a model; `make` loads one, or gives a `packed_matrix`.

    Returns:
        `largest_scale_change` (relative, of any scale) and `packed_bytes` (of all packed matrices).
    """
    writer = ShardedWriter(out, resume=True)
    write_streamed(model.names(), writer, make, progress)
    notes = writer.notes().values()
    return {
        "largest_scale_change": max(note["change"] for note in notes),
        "packed_bytes": sum(note["bytes"] for note in notes),
    }
