"""Disk space: how many bytes a run writes, and where."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol, cast

from pruning_core.compress.shares import target_of, unit_of
from pruning_core.patterns.n_of_m import KeepNOfM
from pruning_core.plan.model_shape import Block, ModelShape
from pruning_core.settings.recipe import Recipe

FLOAT = 4
MAPPED = "mapped"


class LevelAllocation(Protocol):
    """An allocation that chooses among levels."""

    levels: int
    menu: Sequence[int] | None


@dataclass(frozen=True)
class Disk:
    """Bytes, each kind by itself."""

    blocks: int
    """Compressed matrices, bit masks, and codes of quantized ones: kept, for they are what a run resumes at."""
    variant: int
    """The model directory."""
    copies: int
    """The variant once more where DVC's stages expect it, and in DVC's cache where the folder is under DVC."""
    statistics: int
    """Hessians of the dense model, which all variants share; for propagate dense and where an allocation needs them."""
    levels: int
    """Every matrix at every level, for allocations that choose among levels."""
    states: int
    """Hidden states: checkpoints, of which a new one is written before the old one goes, and the mapped file."""
    compressed: int = 0
    """The model before its recovery."""
    checkpoints: int = 0
    """Of a recovery; they go when it is done."""

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    @property
    def kept(self) -> int:
        """What is left when the run is over."""
        return self.total - self.passing

    @property
    def passing(self) -> int:
        """What goes when the run is over."""
        return self.states + self.checkpoints


def disk_of(
    model: ModelShape, recipe: Recipe, sequences: int, stored: float, dtype: int, states: str, copies: int
) -> Disk:
    """The disk of one variant.

    Args:
        stored: bytes per weight in the checkpoint.
        dtype: bytes per value of the hidden states.
        states: memory or mapped.
        copies: of the finished variant beside the store.
    """
    weights = model.weights
    extra = masks(model) + codes(model, recipe)
    variant = int(model.parameters * stored) + extra
    dense = (recipe.calibrates and recipe.propagate == "dense") or "statistics" in recipe.allocation_needs
    hidden = sequences * model.length * model.width * dtype if recipe.calibrates or dense else 0
    return Disk(
        blocks=int(weights * stored) + extra,
        variant=variant,
        copies=copies * variant,
        statistics=sum(block.count * moments(block) for block in model.blocks) if dense else 0,
        levels=levels(model, recipe, stored),
        states=hidden * (3 if states == MAPPED else 2),
    )


def disk_of_smaller(parameters: int, stored: float, copies: int) -> Disk:
    """The disk of a variant that has `parameters` and neither masks nor blocks of its own; scores are small."""
    variant = int(parameters * stored)
    return Disk(blocks=0, variant=variant, copies=copies * variant, statistics=0, levels=0, states=0)


def disk_of_recovered(before: Disk, compresses: bool, extra: int, checkpoints: int) -> Disk:
    """The disk of a variant that is trained.

    Args:
        before: of the model before.
        compresses: whether a model is written before the recovery; otherwise the source is trained.
        extra: bytes that the recovery adds to the model: masks that were not there.
        checkpoints: most bytes of them at once.
    """
    factor = before.copies // before.variant
    variant = before.variant + extra
    compressed = before.variant if compresses else 0
    return replace(before, variant=variant, copies=factor * variant, compressed=compressed, checkpoints=checkpoints)


def masks(model: ModelShape) -> int:
    """Bytes of all bit masks, whose rows end with a whole byte."""
    groups = [(block.count, group) for block in model.blocks for group in block.groups]
    return sum(count * group.experts * sum(group.rows) * -(-group.columns // 8) for count, group in groups)


def codes(model: ModelShape, recipe: Recipe) -> int:
    """Bytes of the integers and grids of quantized matrices: a byte a weight, a scale and a zero for each group."""
    quantizer = recipe.matrix_method.quantizer
    if quantizer is None:
        return 0
    total = 0
    for block in model.blocks:
        for group in block.groups:
            grids = -(-group.columns // (quantizer.group_size or group.columns))
            rows = sum(group.rows)
            each = rows * group.columns + 2 * FLOAT * rows * grids + FLOAT * group.columns * len(group.rows)
            total += block.count * group.experts * each
    return total


def levels(model: ModelShape, recipe: Recipe, stored: float) -> int:
    """Bytes of the levels: one of each weight where they are masks alone, else a mask and what is left for each."""
    count = level_count(model, recipe)
    if not count:
        return 0
    if not recipe.matrix_method.compensates and recipe.matrix_method.quantizer is None:
        return model.weights
    return int(count * (masks(model) + model.weights * stored * (1 - target_of(recipe.matrix_method))))


def level_count(model: ModelShape, recipe: Recipe) -> float:
    """Levels of a weight's matrix on average over the weights; 0 where the allocation chooses among none."""
    if "levels" not in recipe.allocation_needs:
        return 0.0
    method, allocation = recipe.matrix_method, cast("LevelAllocation", recipe.allocation)
    if unit_of(method) == "n" and isinstance(method.pattern, KeepNOfM):
        return len(allocation.menu or range(method.pattern.m))
    # Steps of equal numbers of weights: a matrix twice as large has twice as many.
    groups = [(block.count * group.experts, group) for block in model.blocks for group in block.groups]
    sizes = [(count, rows * group.columns) for count, group in groups for rows in group.rows]
    squares = sum(count * size**2 for count, size in sizes)
    return 1 + allocation.levels * squares * sum(count for count, _ in sizes) / model.weights**2


def moments(block: Block) -> int:
    """Bytes of the Hessians of a block, one for each distinct input."""
    return sum(FLOAT * group.experts * group.columns**2 for group in block.groups)
