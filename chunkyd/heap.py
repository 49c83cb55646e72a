"""The heap, for programs of many threads whose buffers are up to a megabyte and short-lived.

As it comes, glibc gives threads heaps of their own, and what is freed at the end of one back to the system at once: the
next buffer is faulted in again, page by page. With one heap that keeps some megabytes for the next buffer, a gibibyte
costs the server a tenth of the faults, and thousands of small files a third. Python's lock lets threads come to it
one by one anyway.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT_BYTES = 16 << 20  # at the heap's end
_OWN_BYTES = 4 << 20  # what is as large comes from the system, and goes back to it


def settle_heap() -> None:
    """Set it up, before the first thread begins; for programs, not for a library. Does nothing to other C libraries."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _OWN_BYTES)
