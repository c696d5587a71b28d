"""Freed memory is kept for the next tensor, and goes back to the system before much is needed at once."""

import ctypes
from collections.abc import Callable
from functools import cache

KEPT = 1 << 29
"""Bytes at the end of the heap that are kept when they are freed."""
MAPPED = 32 << 20
"""Bytes from which on a tensor gets pages of its own, and gives them back; the most that the C library allows."""
# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def _of_glibc(name: str) -> Callable[..., int] | None:
    # Only glibc has these; other allocators keep less.
    return getattr(ctypes.CDLL(None), name, None)


@cache
def keep_freed_memory() -> None:
    """Let the C library keep what is freed: fresh pages have to be cleared by the system each time, which shows.

    Once in a process is enough.
    """
    option = _of_glibc("mallopt")
    if option is not None:
        option(_M_MMAP_THRESHOLD, MAPPED)
        option(_M_TRIM_THRESHOLD, KEPT)


def return_freed_memory() -> None:
    """Give the pages that the C library holds free back to the system.

    After a forward they are many: tensors of up to 32 MiB leave gaps that larger ones do not fit into.
    """
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)
