"""Ranking: from scores to a plan that meets a parameter budget as nearly as whole heads and rounded widths allow."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import pydantic.dataclasses
import torch
from pydantic import Field
from torch import Tensor

from pruning_core.errors import InputError
from pruning_core.model.coupled_groups import Family, Site
from pruning_core.registry import STRICT
from pruning_core.structured.kept_groups import KeptGroups, Mode
from pruning_core.structured.scores import Scores


@dataclass(frozen=True)
class Chunk:
    """Groups that go together, of one site or of the same site in every block."""

    groups: tuple[tuple[str, tuple[int, ...]], ...]
    """(site name, its groups)."""
    size: int
    """Parameters."""
    score: float
    share: float
    """Of the site's groups that are gone when this chunk and those before it are."""


Queue = list[Chunk]
"""What can go of one site, in the order in which it goes."""


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Ranking:
    """Which groups go.

    ratio: share of the parameters to remove.
    of: model: of all stored parameters, embeddings included; blocks: of those inside the blocks.
    scope: local: every site loses the same share of its groups; global: those of the lowest score per parameter go,
        wherever they are.
    mode: see `pruning_core.structured.kept_groups.Mode`.
    protect_first, protect_last: blocks that lose nothing; None protects an eighth of the blocks at the start and a
        sixteenth at the end, at least one each, where the mode lets blocks differ.
    multiple: of which the channels of a block are one, for fast kernels and for the groups of a quantizer.
    least_channels: share of its channels that a block keeps at least; of heads every block keeps one.
    """

    ratio: Annotated[float, Field(gt=0, lt=1)]
    of: Literal["model", "blocks"] = "model"
    scope: Literal["local", "global"] = "local"
    mode: Mode = "uniform"
    protect_first: Annotated[int, Field(ge=0)] | None = None
    protect_last: Annotated[int, Field(ge=0)] | None = None
    multiple: Literal[1, 2, 4, 8, 16, 32, 64, 128] = 16
    least_channels: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def __post_init__(self) -> None:
        protects = self.protect_first or self.protect_last
        if self.mode == "uniform" and (protects or self.scope == "global"):
            raise ValueError(
                "mode uniform gives every block the same widths, so it takes scope local and protects no block; "
                "choose mode heterogeneous"
            )

    def plan(self, sites: Sequence[Site], scores: Scores, parameters: int, in_blocks: int) -> KeptGroups:
        """The groups to keep.

        Args:
            parameters: of the model as it is stored.
            in_blocks: of those, how many the blocks hold.

        Raises:
            InputError: the ratio would empty a block, or is less than a single group.
        """
        unprotected = self._unprotected(sites)
        queues = [_queue(site, scores, self.multiple, self.least_channels) for site in unprotected]
        families = [site.family for site in unprotected]
        sizes = [site.groups * site.group_size for site in unprotected]
        if self.mode == "uniform":
            queues, families, sizes = _in_every_block(unprotected, queues)
        target = self.ratio * (parameters if self.of == "model" else in_blocks)
        removable = sum(chunk.size for queue in queues for chunk in queue)
        if target > removable:
            most = removable / (parameters if self.of == "model" else in_blocks)
            raise InputError(
                f"ratio {self.ratio} would empty a block: with these families, protected blocks, multiples and least "
                f"widths at most {math.floor(most * 1000) / 1000} of the parameters can be removed"
            )
        counts = [0] * len(queues)
        if self.scope == "local":
            counts = _even_counts(queues, families, sizes, target)
            counts = _filled(queues, counts, target, scores.per_parameter, [count + 1 for count in counts])
        counts = _filled(queues, counts, target, scores.per_parameter, [len(queue) for queue in queues])
        return self._kept(sites, [queue[:count] for queue, count in zip(queues, counts, strict=True)], parameters)

    def _unprotected(self, sites: Sequence[Site]) -> list[Site]:
        depth = 1 + max(site.block for site in sites)
        free = self.mode == "uniform"
        first = self.protect_first if self.protect_first is not None else 0 if free else math.ceil(depth / 8)
        last = self.protect_last if self.protect_last is not None else 0 if free else math.ceil(depth / 16)
        if first + last >= depth:
            raise InputError(f"protect_first {first} and protect_last {last} leave none of {depth} blocks to prune")
        return [site for site in sites if first <= site.block < depth - last]

    def _kept(self, sites: Sequence[Site], chunks: Iterable[Queue], parameters: int) -> KeptGroups:
        gone: dict[str, set[int]] = {site.name: set() for site in sites}
        removed = 0
        for chunk in (chunk for queue in chunks for chunk in queue):
            removed += chunk.size
            for name, groups in chunk.groups:
                gone[name] |= set(groups)
        if not removed:
            raise InputError(
                f"ratio {self.ratio} is less than half of the smallest thing that can be removed; raise it"
            )
        kept = {site.name: tuple(sorted(set(range(site.groups)) - gone[site.name])) for site in sites}
        return KeptGroups(self.mode, kept, parameters, parameters - removed)


def _queue(site: Site, scores: Scores, multiple: int, least_channels: float) -> Queue:
    """The chunks of a site in ascending order of score; what has to stay is in none."""
    values = scores.of(site)
    order = values.argsort(stable=True)
    if site.family == "mlp":
        least = math.ceil(max(1, least_channels * site.groups) / multiple) * multiple
        # The first chunk takes a width that is no multiple to one.
        cuts = list(range(site.groups - (site.groups % multiple or multiple), least - 1, -multiple))
        bounds = [site.groups, *cuts]
        pieces = [order[site.groups - upper : site.groups - lower] for upper, lower in zip(bounds, cuts, strict=False)]
    elif site.family == "attention":
        pieces = list(order[:-1, None])
    else:
        # The lowest query of every key-value head together, then the next: each keeps as many.
        heads = site.attention_heads
        by_group = values.view(heads.key_value, -1).argsort(dim=1, stable=True)
        first = torch.arange(heads.key_value)[:, None] * heads.per_group
        pieces = list((by_group + first).T[:-1])
    return _chunks(site, values, pieces)


def _chunks(site: Site, values: Tensor, pieces: list[Tensor]) -> Queue:
    chunks, gone = [], 0
    for piece in pieces:
        gone += len(piece)
        groups = tuple(sorted(piece.tolist()))
        size = len(piece) * site.group_size
        chunks.append(Chunk(((site.name, groups),), size, float(values[piece].sum()), gone / site.groups))
    return chunks


def _in_every_block(sites: list[Site], queues: list[Queue]) -> tuple[list[Queue], list[Family], list[int]]:
    """One queue per family, whose chunks are those of all blocks; the families; what their groups hold."""
    families = list(dict.fromkeys(site.family for site in sites))
    merged = []
    for family in families:
        family_queues = [queue for site, queue in zip(sites, queues, strict=True) if site.family == family]
        if len({site.groups for site in sites if site.family == family}) > 1:
            raise InputError("the blocks of this model have different widths; prune it in mode heterogeneous")
        merged.append([_together(chunks) for chunks in zip(*family_queues, strict=True)])
    sizes = [sum(site.groups * site.group_size for site in sites if site.family == family) for family in families]
    return merged, families, sizes


def _together(chunks: tuple[Chunk, ...]) -> Chunk:
    groups = tuple(site_groups for chunk in chunks for site_groups in chunk.groups)
    return Chunk(groups, sum(c.size for c in chunks), sum(c.score for c in chunks), chunks[0].share)


def _even_counts(queues: list[Queue], families: Sequence[Family], sizes: list[int], target: float) -> list[int]:
    """How many chunks go of each queue when all lose one share: of heads the nearest number, of channels what is left.

    Args:
        sizes: parameters that the groups of each queue hold.
    """
    counts = [0] * len(queues)
    left, open_ = target, sum(sizes)
    kinds = sorted(set(families), key=lambda name: name == "mlp")
    for kind in kinds:
        numbers = [number for number, name in enumerate(families) if name == kind and queues[number]]
        for slack in (0.5, 0.0):
            slack *= kind != kinds[-1]
            for number in numbers:
                most = left / open_ + slack * queues[number][0].share + 1e-12
                counts[number] = sum(chunk.share <= most for chunk in queues[number])
            taken = sum(chunk.size for number in numbers for chunk in queues[number][: counts[number]])
            # Heads that were rounded up must not take more than there is to take.
            if taken <= left:
                break
        left -= taken
        open_ -= sum(size for size, name in zip(sizes, families, strict=True) if name == kind)
    return counts


def _filled(queues: list[Queue], counts: list[int], target: float, per_parameter: bool, limits: list[int]) -> list[int]:
    """Counts raised, lowest score first, until the target is met as nearly as the chunks allow."""
    counts = list(counts)
    left = target - sum(chunk.size for queue, count in zip(queues, counts, strict=True) for chunk in queue[:count])
    limits = [min(limit, len(queue)) for limit, queue in zip(limits, queues, strict=True)]
    while True:
        open_ = [number for number, limit in enumerate(limits) if counts[number] < limit]
        fitting = [number for number in open_ if queues[number][counts[number]].size <= left]
        if not fitting:
            break
        best = min(fitting, key=_rank(queues, counts, per_parameter))
        left -= queues[best][counts[best]].size
        counts[best] += 1
    over = [number for number in open_ if queues[number][counts[number]].size - left < left]
    if over:
        counts[min(over, key=lambda number: queues[number][counts[number]].size)] += 1
    return counts


def _rank(queues: list[Queue], counts: list[int], per_parameter: bool) -> Callable[[int], float]:
    def rank(number: int) -> float:
        chunk = queues[number][counts[number]]
        return chunk.score / (chunk.size if per_parameter else sum(len(groups) for _, groups in chunk.groups))

    return rank
