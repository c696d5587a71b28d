"""Memory that was freed goes back to the system before much is needed at once."""

import ctypes
from functools import cache


@cache
def _trim() -> ctypes._CFuncPtr | None:
    # Only glibc has it; other allocators keep less.
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def return_freed_memory() -> None:
    """Give the pages that the C library holds free back to the system.

    After a forward they are many: tensors of up to 32 MiB leave gaps that larger ones do not fit into.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
