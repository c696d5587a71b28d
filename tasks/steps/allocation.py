"""Step: how much of each matrix goes, decided once for a model and a budget."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pruning_core.allocation import ALLOCATIONS, Allocation, Request
from pruning_core.budget.counts import budget_of
from pruning_core.compress.shares import Matrix, Shares, matrices_of
from pruning_core.errors import ComputationError
from pruning_core.sensitivity import Profile
from tasks.engine.step import Context, step
from tasks.steps.hidden_states import decoder_of, exclusive
from tasks.steps.levels import measured_levels
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import write_json

TABLE = "shares.json"


@dataclass(frozen=True, kw_only=True)
class AllocationParams:
    """Which allocation, and what it has to meet.

    Args:
        allocation: as in a recipe.
        unit: zeros of a matrix, or the n of n:m patterns.
        m: of n:m patterns.
        target: removed fraction.
    """

    allocation: dict[str, Any]
    unit: str
    m: int | None
    target: float
    trust_remote_code: bool


def allocation_module(params: AllocationParams) -> list[str]:
    """The module of the allocation that these params choose."""
    return [ALLOCATIONS.module(params.allocation["name"])]


@step("allocation", modules=allocation_module)
def allocation(params: AllocationParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """The shares of all matrices.

    inputs: source; sensitivity, and levels-0, levels-1, ... of the blocks, where the allocation needs them.
    writes: shares.json ({unit, values}, and under matrices a row per matrix).
    """
    with exclusive:
        matrices = matrices_of(decoder_of(inputs["source"], params.trust_remote_code))
    measured = inputs.get("sensitivity")
    profile = Profile.of_facts(json.loads((measured.path / "profile.json").read_text())) if measured else None
    allocator = ALLOCATIONS.build(params.allocation)
    request = Request(matrices, params.unit, params.m, params.target, profile)
    if "levels" in allocator.needs:
        level_errors = measured_levels([inputs[f"levels-{index}"] for index in range(1 + matrices[-1].block)])
        request = replace(
            request, levels=allocator.levels_for(request), errors=allocator.errors_of(level_errors, request)
        )
    return write_allocation(allocator, request, allocator.shares(request), out)


def write_allocation(allocator: Allocation, request: Request, shares: Shares, out: Path) -> dict[str, Any]:
    """Check and write the shares of an allocation; returns the facts of the artifact.

    Raises:
        ComputationError: it misses the budget that it has to meet.
    """
    facts = budget_facts(request, shares) | {"name": allocator.name}
    if allocator.meets_budget:
        _check_budget(request, facts["removed"])
    rows = [_row(matrix, request, shares) for matrix in request.matrices]
    write_json(out / TABLE, shares.facts() | {"matrices": rows})
    return facts


def budget_facts(request: Request, shares: Shares) -> dict[str, Any]:
    """The target and the weights that the shares really remove, in all and per block."""
    total, removed = sum(request.sizes), shares.removed(request.matrices, request.m)
    return {
        "unit": request.unit,
        "m": request.m,
        "target": request.target,
        "sparsity": removed / total,
        "removed": removed,
        "prunable": total,
        "blocks": _by_block(request, shares),
    }


def load_shares(artifact: Artifact) -> Shares:
    """The shares of all matrices."""
    return Shares.of_facts(json.loads((artifact.path / TABLE).read_text()))


def _check_budget(request: Request, removed: int) -> None:
    excess = removed - budget_of(sum(request.sizes), request.target)
    # Matrices of unequal size that trade whole levels cannot always meet a number to the weight.
    level = 1 if request.unit == "zeros" else max(request.sizes) // request.m
    allowed = max(level, request.levels.slack if request.levels else 0)
    if not 0 <= excess < allowed:
        raise ComputationError(f"the allocation removes {excess} weights more than the budget; this is an error of it")


def _by_block(request: Request, shares: Shares) -> list[float]:
    blocks: dict[int, list[Matrix]] = {}
    for matrix in request.matrices:
        blocks.setdefault(matrix.block, []).append(matrix)
    return [shares.removed(members, request.m) / sum(matrix.size for matrix in members) for members in blocks.values()]


def _row(matrix: Matrix, request: Request, shares: Shares) -> dict[str, Any]:
    removed = shares.removed([matrix], request.m)
    row = {
        "name": matrix.name,
        "block": matrix.block,
        "rows": matrix.rows,
        "columns": matrix.columns,
        "removed": removed,
        "sparsity": removed / matrix.size,
    }
    return row | ({"sensitivity": request.profile.matrices[matrix.name]} if request.profile else {})
