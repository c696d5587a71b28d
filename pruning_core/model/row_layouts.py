"""How the rows of the matrices that feed an MLP's channels or an attention's heads are laid out, by their names."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Order = Literal["separate", "stacked", "interleaved"]


@dataclass(frozen=True)
class Layout:
    """Matrices that are side by side in one module: producers write what one consumer reads.

    order: separate: a matrix per part; stacked: one matrix, part after part; interleaved: one matrix, in which each
        key-value head has its queries, its key and its value side by side.
    """

    producers: tuple[str, ...]
    consumer: str
    order: Order = "separate"


MLPS = (
    Layout(("gate_proj", "up_proj"), "down_proj"),
    Layout(("gate_up_proj",), "down_proj", "stacked"),
    Layout(("c_fc",), "c_proj"),
    Layout(("dense_h_to_4h",), "dense_4h_to_h"),
    Layout(("fc1",), "fc2"),
)
ATTENTIONS = (
    Layout(("q_proj", "k_proj", "v_proj"), "o_proj"),
    Layout(("q_proj", "k_proj", "v_proj"), "out_proj"),
    Layout(("q_proj", "k_proj", "v_proj"), "dense"),
    Layout(("qkv_proj",), "o_proj", "stacked"),
    Layout(("c_attn",), "c_proj", "stacked"),
    Layout(("query_key_value",), "dense", "interleaved"),
)


@dataclass(frozen=True)
class Heads:
    """How many heads an attention has, and how wide they are."""

    query: int
    key_value: int
    width: int

    @property
    def per_group(self) -> int:
        """Query heads that share a key-value head: i // per_group is the key-value head of query head i."""
        return self.query // self.key_value


Slice = tuple[str, str, Tensor]
"""(part, matrix, rows of it [groups, rows per group] int64)."""


def channel_rows(layout: Layout, channels: int) -> list[Slice]:
    """The rows of each channel of an MLP."""
    rows = torch.arange(channels)[:, None]
    if layout.order == "stacked":
        return [("gate", layout.producers[0], rows), ("up", layout.producers[0], rows + channels)]
    parts = ("gate", "up") if len(layout.producers) == 2 else ("up",)
    return [(part, name, rows) for part, name in zip(parts, layout.producers, strict=True)]


def head_rows(layout: Layout, heads: Heads) -> list[Slice]:
    """The rows of the queries [query heads, width], and of keys and values [key-value heads, width]."""
    counts = {"query": heads.query, "key": heads.key_value, "value": heads.key_value}
    alone = {part: _runs(torch.arange(count), heads.width) for part, count in counts.items()}
    if layout.order == "separate":
        return [(part, name, alone[part]) for part, name in zip(counts, layout.producers, strict=True)]
    name = layout.producers[0]
    if layout.order == "stacked":
        start = {"query": 0, "key": heads.query, "value": heads.query + heads.key_value}
        return [(part, name, rows + start[part] * heads.width) for part, rows in alone.items()]
    share = heads.per_group
    query, group = torch.arange(heads.query), torch.arange(heads.key_value) * (share + 2)
    places = {
        "query": query // share * (share + 2) + query % share,
        "key": group + share,
        "value": group + share + 1,
    }
    return [(part, name, _runs(place, heads.width)) for part, place in places.items()]


def _runs(places: Tensor, width: int) -> Tensor:
    """[places, width]: the rows that make up the head in each place."""
    return places[:, None] * width + torch.arange(width)
