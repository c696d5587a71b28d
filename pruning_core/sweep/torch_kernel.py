"""The readable kernel: one column at a time, on any device. The others are tested against it."""

from torch import Tensor

from pruning_core.selection import smallest


def fix_columns(
    weight: Tensor,
    upper: Tensor,
    removed: Tensor,
    error: Tensor,
    scale: Tensor,
    n_of_m: tuple[int, int] | None,
) -> None:
    """Fix the columns of one block (see `pruning_core.sweep.Kernel`)."""
    for column in range(weight.shape[1]):
        if n_of_m and column % n_of_m[1] == 0:
            group = slice(column, column + n_of_m[1])
            removed[:, group] = smallest(weight[:, group].square() * scale[group], n_of_m[1] - n_of_m[0])
        current = weight[:, column].clone()
        final = current.masked_fill(removed[:, column], 0.0)
        error[:, column] = (current - final) / upper[column, column]
        weight[:, column:] -= error[:, column, None] * upper[column, column:]
        weight[:, column] = final
