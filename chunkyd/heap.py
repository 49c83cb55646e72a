"""The heaps, for programs of many threads whose buffers are up to a megabyte and short-lived.

As it comes, glibc gives threads heaps of their own, and what is freed at the end of one back to the system at once: the
next buffer is faulted in again, page by page. With one heap that keeps some megabytes for the next buffer, a gibibyte
costs the server a tenth of the faults, and thousands of small files a third. Python's lock lets threads come to it
one by one anyway.

The web server has an allocator of its own, jemalloc, that keeps what is free for up to 10 s: all sizes a connection's
buffer ever had, for each of a thousand connections. It is to keep it for 10 ms: the next buffer is asked for sooner.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT_BYTES = 16 << 20  # at the heap's end
_OWN_BYTES = 4 << 20  # what is as large comes from the system, and goes back to it
_JEMALLOC = "dirty_decay_ms:10,muzzy_decay_ms:0"


def settle_heap() -> None:
    """Set them up, before the first thread begins and the web server is loaded; for programs, not for a library.

    Does nothing to other C libraries than glibc, and nothing to jemalloc where the environment says what it is to do.
    """
    os.environ.setdefault("_RJEM_MALLOC_CONF", _JEMALLOC)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _OWN_BYTES)
