"""Row-wise work shared by the threads that torch may use; kernels release the interpreter's lock."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="rows")


def share_rows(work: Callable[[int, int], None], rows: int, least: int) -> None:
    """Call `work(first, last)` so that the calls cover 0..rows, side by side.

    Args:
        least: fewest rows that are worth a thread of their own.
    """
    threads = min(torch.get_num_threads(), max(rows // least, 1))
    if threads == 1:
        work(0, rows)
        return
    bounds = [rows * part // threads for part in range(threads + 1)]
    others = _pool(threads - 1).map(work, bounds[1:-1], bounds[2:])
    work(bounds[0], bounds[1])
    list(others)
