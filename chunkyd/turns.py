"""Turns: stretches of much Python and many short system calls are done by one thread at a time.

Every system call gives Python's lock away and wakes whoever waits for it: with several threads at it, a file of a batch
cost the server six such handings over, a tenth of its processor's time. A turn is a courtesy, no lock: who has waited a
moment for one, because a slow disk holds up whoever has it, goes on beside, and so do all others until that one is
over. So nothing may rely on being alone, and nobody waits for long. The syncs and commits that a stretch leads to come
after its turn, but for what makes a new folder durable on the way to it.
"""

from __future__ import annotations

import threading
from types import TracebackType

_MOMENT = 0.05  # seconds; a stretch takes some milliseconds where no disk is slow


class _Turns:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.hanging = False  # somebody has waited in vain for the turn that is under way


_turns = _Turns()


class in_turn:  # used as a function
    """Around such a stretch; not in a main thread, where a signal could come between taking a turn and having it."""

    __slots__ = ("_mine",)

    def __enter__(self) -> None:
        patience = 0 if _turns.hanging else _MOMENT
        self._mine = _turns.lock.acquire(timeout=patience)
        if patience and not self._mine:
            _turns.hanging = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mine:
            _turns.hanging = False
            _turns.lock.release()
