"""Compression of one block: the unit of work that a run can be killed and resumed at."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from pruning_core.calibration.collect import collect, collect_in_stages, propagate
from pruning_core.calibration.expert_statistics import PooledStatistics
from pruning_core.calibration.hidden_states import HiddenStates
from pruning_core.calibration.shards import WHOLE, Shards
from pruning_core.calibration.staged_forward import InputGroup
from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.checkpoint.layer_facts import LayerFacts
from pruning_core.compress.invariants import check_layer
from pruning_core.compress.method import CompressedLayer, Method, Prepared
from pruning_core.compress.shares import Shares
from pruning_core.compress.stack import stacks
from pruning_core.errors import ComputationError, InputError
from pruning_core.model.decoder import Decoder, matrix, set_matrix
from pruning_core.numerics.freed_memory import return_freed_memory
from pruning_core.progress import Progress, ignore_progress

Propagation = Literal["dense", "blockwise", "compressed"]
PROPAGATIONS: tuple[str, ...] = ("dense", "blockwise", "compressed")
WIDE = 4096
"""Inputs from which on a Hessian is so large (64 MiB) that freed memory is given back before it is factored."""


@dataclass
class BlockOutcome:
    """A compressed block, ready to be stored."""

    weights: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """Stored name -> tensor in the checkpoint's dtype and layout; matrices only."""
    keep: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """Layer name -> [out, in] bool."""
    quantized: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """"<layer>.codes" uint8 [out, in], ".scale" and ".zero" float32 [out, groups], ".group" int32 [in]."""
    layers: list[LayerFacts] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)


class BlockCompressor:
    """Compresses the matrices of one loaded block with one method, group by group.

    Args:
        shares: how much of each matrix goes; by default what the method says, of every matrix alike.
    """

    def __init__(self, decoder: Decoder, index: int, method: Method, shares: Shares | None = None) -> None:
        self.decoder = decoder
        self.index = index
        self.method = method
        self.shares = shares
        self.linears = decoder.linears(index)
        self.outcome = BlockOutcome()

    def compress_group(self, group: InputGroup, statistics: LayerStatistics | None) -> None:
        """Compress every matrix of the group and put the result into the running block."""
        try:
            for name, layer, method in self.compressed(group, statistics, self.prepared(statistics)):
                self._store(name, layer, method, statistics)
        except (ComputationError, InputError) as error:
            # Experts with few tokens may share a group of hundreds of matrices.
            more = f" and {len(group.names) - 4} more" if len(group.names) > 4 else ""
            raise type(error)(f"{', '.join(group.names[:4])}{more}: {error}") from error

    def prepared(self, statistics: LayerStatistics | None) -> Prepared:
        """The part of the work that the matrices of one input share, whatever their shares."""
        if statistics is not None and statistics.full and statistics.in_features >= WIDE:
            return_freed_memory()
        return self._method_for(statistics).prepare(statistics)

    def compressed(
        self, group: InputGroup, statistics: LayerStatistics | None, prepared: Prepared
    ) -> Iterator[tuple[str, CompressedLayer, Method]]:
        """Every matrix of the group with what becomes of it and its own method; the block stays as it is."""
        for method, alike in self._by_method(self._method_for(statistics), group.names).items():
            for names in stacks({name: matrix(self.linears[name]).numel() for name in alike}):
                weights = [matrix(self.linears[name]) for name in names]
                layers = method.compress_stacked(weights, prepared)
                yield from zip(names, layers, [method] * len(names), strict=True)

    def _method_for(self, statistics: LayerStatistics | None) -> Method:
        few = isinstance(statistics, PooledStatistics)
        return self.method.without_statistics() if few and self.method.few_tokens == "magnitude" else self.method

    def _by_method(self, method: Method, names: tuple[str, ...]) -> dict[Method, list[str]]:
        """The matrices whose shares make them one method's, which can be stacked, by that method."""
        if self.shares is None:
            return {method: list(names)}
        methods: dict[Method, list[str]] = {}
        for name in names:
            applied = self.shares.applied(method, name, matrix(self.linears[name]).numel())
            methods.setdefault(applied, []).append(name)
        return methods

    def _store(self, name: str, layer: CompressedLayer, method: Method, statistics: LayerStatistics | None) -> None:
        module = self.linears[name]
        # Rounded once, to the dtype that is saved: what later layers are calibrated on is what users will load.
        rounded = layer.weight.to(self.decoder.stored_dtype(name))
        check_layer(name, rounded, layer.keep, method.pattern, method.sparsity)
        set_matrix(module, rounded.to(self.decoder.dtype))
        laid_out = rounded if matrix(module) is module.weight else rounded.T
        self.decoder.store(f"{name}.weight", laid_out.cpu(), self.outcome.weights)
        self.outcome.keep[name] = layer.keep.cpu()
        for part, value in layer.quantized.items():
            self.outcome.quantized[f"{name}.{part}"] = (value.int() if part == "group" else value).cpu()
        few = statistics.routed[name] if isinstance(statistics, PooledStatistics) else None
        if few is not None:
            event = {"event": "few_tokens", "tokens": few, "rule": self.method.few_tokens}
            self.outcome.ledger.append({"layer": name, **event})
        self.outcome.layers.append(
            LayerFacts(
                name=name,
                stored=self.decoder.stored_name(f"{name}.weight"),
                rows=layer.keep.shape[0],
                columns=layer.keep.shape[1],
                removed=int((~layer.keep).sum()),
                zeros=int((rounded == 0).sum()),
                loss=layer.loss,
                bits=self.method.quantizer.bits if self.method.quantizer else None,
                groups=layer.scale.shape[1] if layer.scale is not None else None,
                tokens=few if few is not None or statistics is None else statistics.tokens,
            )
        )
        self.outcome.ledger += [{"layer": name, **event} for event in layer.events]


@torch.no_grad()
def compress_block(
    decoder: Decoder,
    index: int,
    states: HiddenStates,
    method: Method,
    propagation: Propagation,
    progress: Progress = ignore_progress,
    *,
    advance: bool = True,
    shares: Shares | None = None,
    shards: Shards = WHOLE,
) -> BlockOutcome:
    """Compress the loaded block on the states that enter it, and replace them by the compressed block's outputs.

    propagation `compressed` calibrates each layer on inputs that passed the already compressed layers of this block
    (the true-sequential option of the published codes, in one forward); `blockwise` collects all statistics of a block
    from its dense weights, then runs it again compressed (the published default; arXiv:2301.00774, section 4).
    Without `advance` the forward ends with the last matrix: nobody needs what the last block puts out.
    `shares` as `BlockCompressor` takes them; with `shards` every process that holds one compresses alike.
    """
    compressor = BlockCompressor(decoder, index, method, shares)
    full, pool = method.statistics == "full", method.few_tokens == "layer"
    if propagation == "compressed":
        complete = compressor.compress_group
        collect_in_stages(
            decoder, index, states, complete, full=full, pool=pool, advance=advance, shards=shards, progress=progress
        )
        return compressor.outcome
    groups = collect(decoder, index, states, full=full, pool=pool, advance=False, shards=shards, progress=progress)
    for group, statistics in groups:
        compressor.compress_group(group, statistics)
    if advance:
        propagate(decoder, index, states)
    return compressor.outcome


@torch.no_grad()
def compress_block_from(
    decoder: Decoder,
    index: int,
    statistics: Sequence[tuple[InputGroup, LayerStatistics | None]],
    method: Method,
    shares: Shares | None = None,
) -> BlockOutcome:
    """Compress the loaded block from stored statistics of the dense model; no forward is run."""
    compressor = BlockCompressor(decoder, index, method, shares)
    for group, stored in statistics:
        compressor.compress_group(group, stored)
    return compressor.outcome


def ungrouped(decoder: Decoder, index: int) -> list[tuple[InputGroup, None]]:
    """Every matrix as its own group without statistics, for methods that look at weights alone."""
    return [(InputGroup((name,)), None) for name in decoder.linears(index)]
