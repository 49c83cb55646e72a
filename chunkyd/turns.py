"""Turns: stretches of much Python and many short system calls are done by one thread at a time.

Every system call gives Python's lock away and wakes whoever waits for it: with several threads at it, a file of a batch
cost thirty such handings over, a fifth of the processor's time. A turn is a courtesy and no lock: who has waited a
moment for one, because a slow disk holds up whoever has it, goes on beside. So nothing may rely on being alone, and
nobody waits for ever. No turn is kept while a disk is waited for on purpose, by a sync or a commit.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_MOMENT = 0.05  # seconds; a stretch takes some milliseconds where no disk is slow
_turn = threading.RLock()


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Around such a stretch."""
    mine = _turn.acquire(timeout=_MOMENT)
    try:
        yield
    finally:
        if mine:
            _turn.release()
