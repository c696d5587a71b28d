"""The steps that compress the blocks of a variant, one after another."""

from typing import Any

from pruning_core.compress.fallbacks import check_fallbacks
from pruning_core.compress.shares import method_shares
from pruning_core.settings.recipe import Recipe
from tasks.pipeline.inputs import Inputs
from tasks.steps.allocation import load_shares
from tasks.steps.prune_block import PruneBlockParams, prune_block
from tasks.store.artifact import Artifact


def compressed_blocks(shared: Inputs, recipe: Recipe, allocation: Artifact | None, enforce: bool) -> list[Artifact]:
    """The compressed blocks of a variant, in order.

    Args:
        allocation: how much of each matrix goes, where the recipe has an allocation and it is known.
        enforce: stop once more fallbacks were needed than the recipe allows.

    Raises:
        ComputationError: too many fallbacks, with `enforce`.
    """
    blocks: list[Artifact] = []
    ledger: list[dict[str, Any]] = []
    shares = _shares(shared, recipe, allocation)
    for index in range(shared.depth):
        params = PruneBlockParams(
            block=index,
            method=recipe.method_spec,
            propagate=recipe.propagate if recipe.calibrates else None,
            shares=shares[index],
            **shared.forwards,
        )
        inputs = {"source": shared.source} | _block_inputs(shared, recipe, index, blocks)
        if recipe.allocation is not None and allocation is None:
            # A driver that only looks: what the block would be made with is not known.
            inputs["allocation"] = None
        blocks.append(shared.context.run(prune_block, params, inputs, f"{recipe.name} block {index}"))
        if enforce:
            # Not a part of the step, whose result is the same whatever is allowed: raising the number goes on here.
            ledger += blocks[-1].facts["ledger"]
            check_fallbacks(ledger, recipe.max_fallbacks)
    return blocks


def _shares(shared: Inputs, recipe: Recipe, allocation: Artifact | None) -> list[dict[str, Any] | None]:
    """Per block how much of each matrix goes: None where it is what the method says anyway.

    So blocks whose shares are equal are one block, whichever allocation, or none, gave them.
    """
    if allocation is None:
        return [None] * shared.depth
    shares, of_method = load_shares(allocation), method_shares(recipe.method, shared.matrices)
    blocks = []
    for index in range(shared.depth):
        names = [matrix.name for matrix in shared.matrices if matrix.block == index]
        block_shares = shares.of(names)
        blocks.append(None if block_shares == of_method.of(names) else block_shares.facts())
    return blocks


def _block_inputs(shared: Inputs, recipe: Recipe, index: int, blocks: list[Artifact]) -> dict[str, Artifact]:
    if not recipe.calibrates:
        return {}
    if recipe.propagate == "dense":
        return {"statistics": shared.statistics(index)}
    return {"tokens": shared.calibration} | ({"previous": blocks[-1]} if blocks else {})
