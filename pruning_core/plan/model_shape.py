"""Shape of a model: its blocks and matrices, as far as the cost of compressing it depends on them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PretrainedConfig

from pruning_core.calibration.staged_forward import InputGroup, input_groups
from pruning_core.model.decoder import BlockCall, matrix
from pruning_core.model.experts import Experts, Stage
from pruning_core.model.skeleton import Skeleton, expert_tokens
from pruning_core.model.vocabulary import vocabulary_size
from pruning_core.plan.forward_trace import Segment, counting, segments


@dataclass(frozen=True)
class Group:
    """Matrices in front of which calibration stops, because they read one input."""

    columns: int
    rows: tuple[int, ...]
    """Of the matrices that read the same input; of one expert where there are experts."""
    experts: int = 1
    """How many times over the group is there, each time with statistics of its own."""
    alike: bool = True
    """Of experts: whether all would read the same if every token were routed to all of them."""
    tokens: float = 1.0
    """Share of the tokens that each of them reads."""

    @property
    def weights(self) -> int:
        return self.experts * self.columns * sum(self.rows)

    @property
    def largest(self) -> int:
        """Entries of the largest matrix."""
        return self.columns * max(self.rows)


@dataclass(frozen=True)
class Block:
    """Blocks that are alike."""

    count: int
    last: bool
    """Whether the last block of the model is one of them."""
    parameters: int
    groups: tuple[Group, ...]
    segments: tuple[Segment, ...] = field(repr=False)
    """Of one micro-batch: up to each group, and to the end."""

    @property
    def weights(self) -> int:
        """Entries of the prunable matrices."""
        return sum(group.weights for group in self.groups)

    def total(self, what: str, count: int | None = None) -> int:
        """Sum of a field of the segments, of the first `count` where given."""
        return sum(getattr(segment, what) for segment in self.segments[:count])


@dataclass(frozen=True)
class ModelShape:
    """A model and the micro-batch that was sent through it."""

    parameters: int
    outside: int
    """Parameters that run outside the blocks; the output head, which calibration never reaches, is none of them."""
    largest: int
    """Entries of the largest parameter."""
    width: int
    vocabulary: int
    batch: int
    length: int
    blocks: tuple[Block, ...]

    @property
    def weights(self) -> int:
        """Entries of all prunable matrices."""
        return sum(block.count * block.weights for block in self.blocks)

    @property
    def matrices(self) -> int:
        """How many matrices are prunable."""
        return sum(block.count * group.experts * len(group.rows) for block in self.blocks for group in block.groups)


def model_shape(
    config: PretrainedConfig, batch: int, length: int, dtype: torch.dtype, trust_remote_code: bool = False
) -> ModelShape:
    """Take a model of that configuration apart; micro-batches are `batch` sequences of `length` tokens in `dtype`.

    Raises:
        InputError: it is none that can be compressed.
    """
    skeleton = Skeleton(config, dtype, trust_remote_code)
    tokens = torch.zeros(batch, length, dtype=torch.int64, device="meta")
    with counting([]):
        hidden = skeleton.enter(tokens)
        calls = skeleton.calls(tokens)
    kinds: dict[tuple[object, ...], list[int]] = {}
    for index, block in enumerate(skeleton.blocks):
        kinds.setdefault(_kind(block), []).append(index)
    return ModelShape(
        skeleton.parameters,
        skeleton.outside_parameters,
        skeleton.largest_tensor(),
        hidden.shape[-1],
        vocabulary_size(skeleton.model),
        batch,
        length,
        tuple(_block(skeleton, indices, hidden, calls) for indices in kinds.values()),
    )


def _kind(block: nn.Module) -> tuple[object, ...]:
    """Equal for blocks that cost the same."""
    shapes = tuple((name, tuple(parameter.shape)) for name, parameter in block.named_parameters())
    attention = tuple(getattr(module, "sliding_window", None) for module in block.modules())
    return type(block).__name__, shapes, attention


def _block(skeleton: Skeleton, indices: Sequence[int], hidden: Tensor, calls: list[BlockCall]) -> Block:
    block, call = skeleton.blocks[indices[0]], calls[indices[0]]
    modules = skeleton.watched(indices[0])
    with counting([]):
        groups = input_groups(modules, lambda: call.run(block, hidden))
    arguments = [leaf for leaf in tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Tensor)]
    stops = [modules[group.names[0]] for group in groups]
    parts = segments(block, stops, lambda: call.run(block, hidden), [hidden, *arguments])
    return Block(
        len(indices),
        indices[-1] == len(skeleton) - 1,
        sum(parameter.numel() for parameter in block.parameters()),
        tuple(_group(group, modules, block, hidden) for group in groups),
        tuple(parts),
    )


def _group(group: InputGroup, modules: dict[str, nn.Module], block: nn.Module, hidden: Tensor) -> Group:
    first = modules[group.names[0]]
    if not isinstance(first, Stage):
        shapes = [matrix(modules[name]).shape for name in group.names]
        return Group(shapes[0][1], tuple(shape[0] for shape in shapes))
    experts = next(m for m in block.modules() if isinstance(m, Experts) and first in (m.entering, m.leaving))
    rows = [matrix(experts.get_submodule(f"0.{name}")).shape[0] for name in first.matrices]
    tokens = hidden.shape[:-1].numel()
    share = expert_tokens(experts, tokens * _experts_per_token(block)) / tokens
    return Group(first.in_features, tuple(rows), experts.count, first.alike, min(share, 1.0))


def _experts_per_token(block: nn.Module) -> int:
    numbers = [getattr(module, name, None) for module in block.modules() for name in ("top_k", "num_experts_per_tok")]
    return max((number for number in numbers if isinstance(number, int)), default=1)
