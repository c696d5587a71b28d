"""Every level of every matrix of a block, compressed once and read back for one candidate after another.

Where a level only masks, one byte per weight serves all levels, since masks of growing sparsity are nested; where
weights were changed, each level is a bit mask and the values that are left. Files are safetensors, mapped when read.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from pruning_core.calibration.staged_forward import InputGroup
from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.checkpoint.bit_masks import pack_mask, unpack_mask
from pruning_core.compress.block import BlockCompressor
from pruning_core.compress.invariants import check_layer
from pruning_core.compress.method import Method
from pruning_core.compress.shares import Shares
from pruning_core.errors import ComputationError, InputError
from pruning_core.model.decoder import Decoder, matrix
from pruning_core.progress import Progress, ignore_progress

MOST = 255
"""Levels that a byte per weight can tell apart."""
DECODED = 256 << 20
"""Bytes of decoded levels that a store keeps in memory."""
GroupStatistics = list[tuple[InputGroup, LayerStatistics | None]]
"""The input groups of a block with the statistics of their inputs, where the method needs them."""


@dataclass
class BlockLevels:
    """The levels of one block, ready to be stored."""

    tensors: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """"<matrix>.first" uint8 [out, in], the first level at which a weight is gone; or per level
    "<matrix>.<level>.keep" bit mask and "<matrix>.<level>.values" [kept] in the checkpoint's dtype."""
    matrices: list[dict[str, Any]] = field(default_factory=list)
    """Per matrix: name, rows, columns, form (nested | values), weight_loss 0.5 tr(W H W^T) and weight_square ||W||^2,
    and per level share, zeros, loss 0.5 tr(D H D^T) (None without a full Hessian) and change ||D||^2."""
    ledger: list[dict[str, Any]] = field(default_factory=list)


@torch.no_grad()
def compress_levels(
    decoder: Decoder,
    index: int,
    statistics: GroupStatistics,
    method: Method,
    unit: Literal["zeros", "n"],
    shares: dict[str, Sequence[int]],
    progress: Progress = ignore_progress,
) -> BlockLevels:
    """Compress every matrix of a loaded block at every level, from dense statistics; the block stays as it is.

    A level is bit for bit what `pruning_core.compress.block.compress_block_from` makes of the same share, so that
    levels of different matrices can be put together to a variant (EvoPress, arXiv:2410.14649).

    Args:
        statistics: of every input group, as the method needs them.
        shares: matrix -> the value of each level, from fewest to most removed.

    Raises:
        InputError: more levels than a byte can number, or a method whose pattern does not meet a share exactly.
    """
    crowded = next((name for name, row in shares.items() if len(row) > MOST), None)
    if crowded is not None:
        raise InputError(
            f"{crowded} has {len(shares[crowded])} levels, at most {MOST} can be stored; take a larger step"
        )
    outcome, done = BlockLevels(), 0
    events = outcome.ledger
    linears = decoder.linears(index)
    for group, layer_statistics in statistics:
        prepared = BlockCompressor(decoder, index, method).prepared(layer_statistics)
        encoded: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in group.names}
        for level in range(max(len(shares[name]) for name in group.names)):
            names = tuple(name for name in group.names if level < len(shares[name]))
            level_shares = Shares(unit, {name: shares[name][level] for name in names})
            compressor = BlockCompressor(decoder, index, method, level_shares)
            for name, layer, applied in compressor.compressed(InputGroup(names), layer_statistics, prepared):
                rounded = layer.weight.to(decoder.stored_dtype(name))
                check_layer(name, rounded, layer.keep, applied.pattern, applied.sparsity)
                encoded[name].append((rounded.cpu(), layer.keep.cpu()))
                events += [entry for event in layer.events if (entry := {"layer": name, **event}) not in events]
        for name in group.names:
            dense = matrix(linears[name]).to(decoder.stored_dtype(name)).cpu()
            outcome.tensors |= dict(_encoded(name, dense, encoded[name]))
            nested = f"{name}.first" in outcome.tensors
            form = {"name": name, "form": "nested" if nested else "values"}
            outcome.matrices.append(form | _measured(name, dense, encoded[name], shares[name], layer_statistics))
        done += len(group.names)
        progress(done, len(linears))
    order = list(linears)
    outcome.matrices.sort(key=lambda facts: order.index(facts["name"]))
    return outcome


def _encoded(name: str, dense: Tensor, levels: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    first = torch.zeros(dense.shape, dtype=torch.uint8)
    for _, keep in levels:
        first += keep
    nested = all(bool(((first > level) == keep).all()) for level, (_, keep) in enumerate(levels))
    masked = all(bool((weight == dense.where(keep, torch.zeros_like(dense))).all()) for weight, keep in levels)
    if nested and masked:
        yield f"{name}.first", first
        return
    for level, (weight, keep) in enumerate(levels):
        yield f"{name}.{level}.keep", pack_mask(keep)
        yield f"{name}.{level}.values", weight[keep]


def _measured(
    name: str,
    dense: Tensor,
    stored: list[tuple[Tensor, Tensor]],
    shares: Sequence[int],
    statistics: LayerStatistics | None,
) -> dict[str, Any]:
    hessian = statistics.hessian().cpu() if statistics is not None and statistics.full else None

    def loss(change: Tensor) -> float | None:
        return None if hessian is None else 0.5 * float(((change @ hessian).double() * change).sum())

    levels = []
    for share, (weight, keep) in zip(shares, stored, strict=True):
        change = weight.float() - dense.float()
        square = float(change.double().square().sum())
        levels.append({"share": share, "zeros": int((~keep).sum()), "loss": loss(change), "change": square})
    whole = dense.float()
    facts = {"weight_loss": loss(whole), "weight_square": float(whole.double().square().sum())}
    return {"rows": dense.shape[0], "columns": dense.shape[1], **facts, "levels": levels}


class LevelStore:
    """The stored levels of all blocks, for models of one dtype and device; threads may share one.

    Args:
        files: one safetensors file per block, tensors named as in `BlockLevels.tensors`.
        decoded: bytes of decoded weights to keep in memory.
    """

    def __init__(self, files: Sequence[Path], decoded: int = DECODED) -> None:
        self._files = [safe_open(file, framework="pt", device="cpu") for file in files]
        self._where = {key: file for file in self._files for key in file.keys()}  # noqa: SIM118 - no mapping
        self._room = decoded
        self._decoded: OrderedDict[tuple[str, int], Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def weight(self, name: str, level: int, dense: Tensor) -> Tensor:
        """[out, in]: a matrix at a level, in the dtype and on the device of `dense`, the matrix as it was."""
        key = (name, level)
        with self._lock:
            if key in self._decoded:
                self._decoded.move_to_end(key)
                return self._decoded[key]
        weight = self._decode(name, level, dense)
        with self._lock:
            self._keep(key, weight)
        return weight

    def _decode(self, name: str, level: int, dense: Tensor) -> Tensor:
        if f"{name}.first" in self._where:
            first = self._tensor(f"{name}.first").to(dense.device)
            return dense.masked_fill(first <= level, 0)
        if f"{name}.{level}.keep" not in self._where:
            raise ComputationError(f"level {level} of {name} is not stored")
        keep = unpack_mask(self._tensor(f"{name}.{level}.keep"), dense.shape[1])
        weight = torch.zeros(dense.shape, dtype=dense.dtype)
        weight[keep] = self._tensor(f"{name}.{level}.values").to(dense.dtype)
        return weight.to(dense.device)

    def _tensor(self, key: str) -> Tensor:
        tensor: Tensor = self._where[key].get_tensor(key)
        return tensor

    def _keep(self, key: tuple[str, int], weight: Tensor) -> None:
        size = weight.numel() * weight.element_size()
        if size > self._room or key in self._decoded:
            return
        self._decoded[key] = weight
        self._room -= size
        while self._room < 0:
            _, old = self._decoded.popitem(last=False)
            self._room += old.numel() * old.element_size()
