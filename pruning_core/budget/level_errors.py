"""The error of each level of each matrix, in one unit for all matrices, for the knapsack and for repairs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pruning_core.errors import ComputationError, InputError

ErrorKind = Literal["output", "relative_output", "fisher"]


def level_errors(
    matrices: Sequence[Mapping[str, Any]], kind: ErrorKind, sensitivity: Mapping[str, float] | None = None
) -> list[list[float]]:
    """[matrix][level], smaller is better.

    output: 0.5 tr(D H D^T), the squared error of the matrix's output per token, summed over its outputs.
    relative_output: the same divided by what the outputs hold, 0.5 tr(W H W^T): the share of the signal that is lost.
    fisher: 0.5 t ||D||^2 with t the mean Fisher information of a weight of the matrix: a predicted rise of the loss.

    Args:
        matrices: as `pruning_core.search.level_store.BlockLevels.matrices`.
        sensitivity: matrix -> mean Fisher trace per weight; for fisher.

    Raises:
        InputError: levels without a Hessian where the output's error is asked for, or without a sensitivity.
        ComputationError: an error that is no finite number.
    """
    rows = [_row(facts, kind, sensitivity) for facts in matrices]
    for facts, row in zip(matrices, rows, strict=True):
        if not all(map(math.isfinite, row)):
            raise ComputationError(f"a level of {facts['name']} has an error that is no finite number")
    return rows


def _row(facts: Mapping[str, Any], kind: ErrorKind, sensitivity: Mapping[str, float] | None) -> list[float]:
    if kind == "fisher":
        if sensitivity is None:
            raise InputError("errors fisher need the sensitivity fisher")
        return [0.5 * sensitivity[facts["name"]] * level["change"] for level in facts["levels"]]
    losses = [level["loss"] for level in facts["levels"]]
    if None in losses:
        raise InputError(f"errors {kind} need calibration statistics, which {facts['name']} has none of; use fisher")
    # A matrix whose outputs are all zero loses nothing at any level.
    scale = facts["weight_loss"] if kind == "relative_output" else 1.0
    return [loss / scale if scale else 0.0 for loss in losses]
