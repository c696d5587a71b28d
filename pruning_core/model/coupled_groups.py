"""Coupled groups: what has to go together so that a smaller network computes what the masked one does.

A channel of an MLP is its row in every matrix that feeds it and its column in the one that reads it; a key-value head
is its key and value rows with the rows of the queries that attend to it and the columns that read their outputs
(LLM-Pruner, arXiv:2305.11627, section 3.1). The stream between the blocks keeps its width.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pruning_core.errors import InputError, required
from pruning_core.model.experts import Experts
from pruning_core.model.row_layouts import ATTENTIONS, MLPS, Heads, Layout, Slice, channel_rows, head_rows

Family = Literal["mlp", "attention", "query"]
"""mlp: channels. attention: key-value heads with their queries. query: single query heads, of all key-value
heads alike."""
FAMILIES: tuple[Family, ...] = get_args(Family)


@dataclass(frozen=True, eq=False)
class Member:
    """The slices of one parameter that belong to the groups of a site.

    Args:
        matrix: full name of the module.
        parameter: weight or bias.
        part: gate, up, down; query, key, value, out.
        axis: of the parameter as it is stored (transposed in a Conv1D).
        index: [groups, slices per group] int64, along the axis.
    """

    matrix: str
    parameter: str
    part: str
    axis: int
    index: Tensor = field(repr=False)

    @property
    def name(self) -> str:
        """Full name of the parameter."""
        return f"{self.matrix}.{self.parameter}"

    @property
    def consumes(self) -> bool:
        """Whether it reads what the group computes."""
        return self.part in ("down", "out")

    def per_group(self, values: Tensor) -> Tensor:
        """[groups]: the sums of `values`, shaped as the parameter, over what each group owns."""
        along = values.movedim(self.axis, 0).flatten(1).sum(1) if values.dim() > 1 else values
        return along[self.index.to(along.device)].sum(1)


@dataclass(frozen=True, eq=False)
class Site:
    """The groups of one family in one block.

    Args:
        heads: of the attention; None for an MLP.
        sizes: name of every parameter of the members -> its shape.
    """

    block: int
    family: Family
    groups: int
    members: tuple[Member, ...]
    sizes: dict[str, torch.Size] = field(repr=False)
    heads: Heads | None = None

    @property
    def name(self) -> str:
        """Names it in plans and scores: "3.mlp"."""
        return f"{self.block}.{self.family}"

    @property
    def attention_heads(self) -> Heads:
        """`heads` of an attention; ComputationError of an MLP, which has none."""
        return required(self.heads, f"the attention of {self.name}")

    @property
    def consumer(self) -> Member:
        """The weight that reads the groups."""
        return next(member for member in self.members if member.consumes)

    @property
    def group_size(self) -> int:
        """Parameters of one group, biases included."""
        sizes = ((member, self.sizes[member.name]) for member in self.members)
        return sum(member.index.shape[1] * (shape.numel() // shape[member.axis]) for member, shape in sizes)

    def slices(self, groups: Iterable[int]) -> dict[str, tuple[int, Tensor]]:
        """Parameter -> (axis, positions along it) of these groups."""
        selected = torch.tensor(sorted(groups), dtype=torch.int64)
        slices: dict[str, tuple[int, Tensor]] = {}
        for member in self.members:
            positions = member.index[selected].flatten()
            before = slices[member.name][1] if member.name in slices else positions[:0]
            slices[member.name] = (member.axis, torch.cat([before, positions]).sort().values)
        return slices


def sites_of(blocks: nn.ModuleList, prefix: str, families: Iterable[str]) -> list[Site]:
    """The groups of every block, by block and family.

    Args:
        blocks: the decoder's; may be on the meta device.
        prefix: their full name.
        families: see `Family`.

    Raises:
        InputError: an unknown family, attention and query together, or a block that does not show a family's groups.
    """
    families = tuple(families)
    for family in families:
        if family not in FAMILIES:
            raise InputError(f"{family!r} is no family of groups; known: {', '.join(FAMILIES)}")
    if not families or len(set(families)) < len(families) or {"attention", "query"} <= set(families):
        raise InputError(
            "families must be mlp, attention or query, or mlp and one of the others; got "
            f"{', '.join(families) or 'none'}"
        )
    return [
        site_of(block, f"{prefix}.{index}", index, family)
        for index, block in enumerate(blocks)
        for family in FAMILIES
        if family in families
    ]


def site_of(block: nn.Module, prefix: str, index: int, family: Family) -> Site:
    """The groups of a family in the block `index` of full name `prefix`; InputError where it does not show them."""
    if family == "mlp" and any(isinstance(module, Experts) for module in block.modules()):
        raise InputError(
            f"block {index} is a mixture of experts, whose channels cannot be removed; choose families: [attention]"
        )
    owner, layout = _match(block, MLPS if family == "mlp" else ATTENTIONS, index, family)
    module = block.get_submodule(owner)
    full = f"{prefix}.{owner}" if owner else prefix
    consumer = module.get_submodule(layout.consumer)
    width = _width(consumer, 1)
    heads = None
    if family == "mlp":
        rows = channel_rows(layout, width)
        columns = torch.arange(width)[:, None]
    else:
        heads = _heads(module, layout, width, full)
        rows, columns = _head_slices(layout, heads, family)
    slices = [*rows, ("down" if family == "mlp" else "out", layout.consumer, columns)]
    members = tuple(member for slice_ in slices for member in _members(module, full, slice_))
    parameters = dict(module.named_parameters())
    sizes = {member.name: parameters[member.name.removeprefix(f"{full}.")].shape for member in members}
    return Site(index, family, len(columns), members, sizes, heads)


def _match(block: nn.Module, layouts: tuple[Layout, ...], index: int, family: str) -> tuple[str, Layout]:
    matches = [
        (name, layout)
        for name, module in block.named_modules()
        for layout in layouts
        if all(
            isinstance(getattr(module, linear, None), nn.Linear | Conv1D)
            for linear in (*layout.producers, layout.consumer)
        )
    ]
    if len(matches) != 1:
        linears = dict.fromkeys(name for name, module in block.named_modules() if isinstance(module, nn.Linear))
        raise InputError(
            f"block {index} ({type(block).__name__}) shows {len(matches)} places for groups of the family {family} "
            f"where one is needed (its linear layers: {', '.join(linears)}); leave {family} out of families"
        )
    return matches[0]


def _heads(attention: nn.Module, layout: Layout, width: int, full: str) -> Heads:
    size = getattr(attention, "head_dim", None) or getattr(attention, "head_size", None)
    rows = sum(_width(attention.get_submodule(name), 0) for name in layout.producers)
    linears = {f"{name}.{part}" for name in (*layout.producers, layout.consumer) for part in ("weight", "bias")}
    # A norm over all heads, or one per head, ties heads together in a way that no slice of a matrix undoes.
    tied = [
        name
        for name, parameter in attention.named_parameters()
        if name not in linears and (parameter.numel() != size or any(part.isdigit() for part in name.split(".")))
    ]
    if size is None or tied or (layout.order == "separate" and width != _width(attention.get_submodule("q_proj"), 0)):
        reason = f"its parameter {tied[0]} belongs to several heads" if tied else "its heads cannot be told apart"
        raise InputError(f"the heads of {full} cannot be removed: {reason}; choose families: [mlp]")
    return Heads(width // size, (rows // size - width // size) // 2, size)


def _head_slices(layout: Layout, heads: Heads, family: Family) -> tuple[list[Slice], Tensor]:
    columns = torch.arange(heads.query * heads.width).view(heads.query, heads.width)
    rows = head_rows(layout, heads)
    if family == "query":
        return [rows[0]], columns
    part, name, queries = rows[0]
    return [(part, name, queries.view(heads.key_value, -1)), *rows[1:]], columns.view(heads.key_value, -1)


def _members(module: nn.Module, full: str, slice_: Slice) -> list[Member]:
    part, name, index = slice_
    linear = module.get_submodule(name)
    consumes = part in ("down", "out")
    axis = int(consumes != isinstance(linear, Conv1D))
    members = [Member(f"{full}.{name}", "weight", part, axis, index)]
    if not consumes and linear.bias is not None:
        members.append(Member(f"{full}.{name}", "bias", part, 0, index))
    return members


def _width(linear: nn.Module, axis: int) -> int:
    """Outputs (axis 0) or inputs (axis 1)."""
    weight = cast("Tensor", linear.weight)
    return weight.shape[1 - axis if isinstance(linear, Conv1D) else axis]
