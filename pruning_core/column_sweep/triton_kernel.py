"""The GPU kernel: one launch per block; a tile of rows stays in registers while its columns are fixed one by one.

Rows are independent once the mask is known, so no program waits for another. A column is read in its turn and pushed to
the right, but it is left as it was: what it becomes, its error and its code follow for the whole tile at the end.
Runs on CUDA tensors, and on the CPU where TRITON_INTERPRET=1 was set before triton was first imported (slow).
"""

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from pruning_core.column_sweep import GroupRule
from pruning_core.column_sweep.grids import BlockGrid

ROWS = 16
WARPS = 4
"""16 rows of 128 columns on 4 warps: 8 lanes share a row and each holds 16 of its columns."""
WIDEST = 128
"""Columns of a launch; wider blocks are split, and only an N:M group that is wider stays whole."""
UNROLLED = 16
"""Columns per turn of the loop: as many as a lane holds, so that which register holds a column is known beforehand."""
FAR = tl.constexpr(512.0)
"""Farther than any code of 8 bits is from any zero point."""
ROUNDER = tl.constexpr(1.5 * 2**23)
"""At this magnitude the spacing of float32 is 1: adding it rounds to whole numbers, halves to the even neighbour."""


@triton.jit
def _codes(values, step, zero, top):
    """The nearest codes 0..top; NaN stays NaN."""
    ratio = tl.clamp(tl.div_rn(values, step), -FAR, FAR, propagate_nan=tl.PropagateNan.ALL)
    return tl.clamp(((ratio + ROUNDER) - ROUNDER) + zero, 0.0, top, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _final(values, gone, step, zero, top, GRID: tl.constexpr):
    """What `values` become in their turn."""
    if GRID:
        values = step * (_codes(values, step, zero, top) - zero)
    return tl.where(gone, 0.0, values)


@triton.jit
def _chosen(gone, score, cols, first, width, count, SIZE: tl.constexpr, UNROLL: tl.constexpr):
    """`gone` with the group that begins at `first` replaced: its `count` lowest scores, ties to the lower index."""
    rank = tl.zeros_like(score).to(tl.int32)
    for offset in tl.range(0, SIZE, loop_unroll_factor=UNROLL):
        rival = tl.sum(tl.where(cols == first + offset, score, 0.0), axis=1)[:, None]
        rival = tl.where(first + offset < width, rival, float("inf"))
        rank += tl.where(offset < cols % SIZE, rival <= score, rival < score).to(tl.int32)
    return tl.where(cols // SIZE == first // SIZE, rank < count, gone)


@triton.jit
def _fix_tile(
    weight,
    upper,
    right,
    removed,
    error,
    scale,
    steps,
    zeros,
    group,
    codes,
    rows,
    width,
    weight_pitch,
    upper_pitch,
    block_pitch,
    grid_pitch,
    count,
    count_last,
    top,
    CHOOSE: tl.constexpr,
    GRID: tl.constexpr,
    SIZE: tl.constexpr,
    UNROLL: tl.constexpr,
    TURN: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Fix columns 0..width of ROWS rows; pitches are in elements.

    Columns from `width` to the next multiple of TURN are fixed too: they are zero, and change nothing.
    """
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    col = tl.arange(0, WIDTH)
    cols = tl.broadcast_to(col[None, :], [ROWS, WIDTH])
    inside = (row < rows) & (cols < width)
    row = row.to(tl.int64)
    tile = tl.load(weight + row * weight_pitch + cols, mask=inside, other=0.0)
    gone = tl.load(removed + row * block_pitch + cols, mask=inside, other=0) != 0
    pivot = tl.load(upper + col * (upper_pitch + 1), mask=col < width, other=1.0)[None, :]
    step = tl.full([ROWS, WIDTH], 1.0, tl.float32)
    zero = tl.zeros([ROWS, WIDTH], tl.float32)
    if GRID:
        which = tl.load(group + col, mask=col < width, other=0)[None, :]
        step = tl.load(steps + row * grid_pitch + which, mask=inside, other=1.0)
        zero = tl.load(zeros + row * grid_pitch + which, mask=inside, other=0.0)
    importance = tl.load(scale + col, mask=col < width, other=0.0)[None, :]
    for turn in range(0, width, TURN):
        for part in tl.static_range(TURN // SIZE):
            first = turn + part * SIZE
            if CHOOSE:
                chosen = tl.where(first + SIZE <= width, count, count_last)
                gone = _chosen(gone, tile * tile * importance, cols, first, width, chosen, SIZE, UNROLL)
            for offset in tl.range(0, SIZE, loop_unroll_factor=UNROLL):
                column = first + offset
                # A row of U for every row of the tile: a narrower load would change hands through shared memory.
                later = tl.load(right + column * WIDTH + cols)
                # Elementwise first: the lane that holds the column rounds and divides, and one sum tells the others.
                push = tl.div_rn(tile - _final(tile, gone, step, zero, top, GRID), pivot)
                push = tl.sum(tl.where(cols == column, push, 0.0), axis=1)[:, None]
                tile = tl.fma(-push, later, tile)
    final = _final(tile, gone, step, zero, top, GRID)
    tl.store(error + row * block_pitch + cols, tl.div_rn(tile - final, pivot), mask=inside)
    tl.store(weight + row * weight_pitch + cols, final, mask=inside)
    if GRID:
        # The code of a removed weight is the one that means zero.
        code = tl.where(gone, zero, _codes(tile, step, zero, top))
        tl.store(codes + row * block_pitch + cols, code.to(tl.uint8), mask=inside)
    if CHOOSE:
        tl.store(removed + row * block_pitch + cols, gone, mask=inside)


INTERPRETED = not isinstance(_fix_tile, triton.JITFunction)
"""Whether Triton's interpreter runs the kernel, on any device."""


def fix_columns(
    weight: Tensor,
    upper: Tensor,
    removed: Tensor,
    error: Tensor,
    scale: Tensor,
    groups: GroupRule | None,
    grid: BlockGrid | None,
) -> None:
    """Fix the columns of one block (see `pruning_core.column_sweep.Kernel`)."""
    width = weight.shape[1]
    widest = max(WIDEST - WIDEST % groups.size, groups.size) if groups else WIDEST
    for start in range(0, width, widest):
        stop = min(start + widest, width)
        part = slice(start, stop)
        views = [tensor[:, part] for tensor in (weight, removed, error)]
        here = grid and replace(grid, group=grid.group[part], codes=grid.codes[:, part])
        _launch(views[0], upper[part, part], views[1], views[2], scale[part], groups, here)
        if stop < width:
            weight[:, stop:].addmm_(error[:, part], upper[part, stop:], alpha=-1)


def _constants(size: int | None, grid: bool, width: int) -> dict[str, int]:
    """What is compiled into the program for groups of `size` (None without), with or without grids, up to `width`."""
    each = size or UNROLLED
    return {
        "CHOOSE": size is not None,
        "GRID": grid,
        "SIZE": each,
        "UNROLL": min(each, UNROLLED),
        "TURN": UNROLLED if UNROLLED % each == 0 else each,
        "ROWS": ROWS,
        "WIDTH": triton.next_power_of_2(width),
    }


def _launch(
    weight: Tensor,
    upper: Tensor,
    removed: Tensor,
    error: Tensor,
    scale: Tensor,
    groups: GroupRule | None,
    grid: BlockGrid | None,
) -> None:
    rows, width = weight.shape
    compiled = _constants(groups.size if groups else None, grid is not None, width)
    # Zeros up to the diagonal, so that a push leaves the columns that had their turn; a row for every column of a turn.
    right = pad(upper.triu(1), (0, compiled["WIDTH"] - width, 0, -width % compiled["TURN"]))
    with torch.cuda.device_of(weight):
        _fix_tile[(triton.cdiv(rows, ROWS),)](
            weight,
            upper,
            right,
            removed,
            error,
            scale,
            *((grid.scale, grid.zero, grid.group, grid.codes) if grid else (None,) * 4),
            rows,
            width,
            weight.stride(0),
            upper.stride(0),
            error.stride(0),
            grid.scale.stride(0) if grid else 0,
            groups.removed if groups else 0,
            groups.removed_last if groups else 0,
            float(grid.top) if grid else 0.0,
            **compiled,
            num_warps=WARPS,
            # A fused multiply-add here and not there would let the error miss the value by a rounding.
            enable_fp_fusion=False,
        )
