"""Space that was promised (rule 8): what all sessions still miss, against what the disk still has.

Where the file system has set a session's space aside (fallocate) the disk's own count holds it; all other sessions
are counted here, from the first moment of their initiate, so that two never get the same room. Pure bookkeeping:
one thread calls it, and what is free is asked for by the caller.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from chunkyd.errors import Problem
from chunkyd.protocol.problems import problem
from chunkyd.server.session import LiveSession

FULL_RETRY_SECONDS = 5.0  # room returns at any moment: an upload ends, expires, is cancelled; to ask costs little


class Ledger:
    """Bytes owed to sessions; `reserve` bytes of the disk are nobody's."""

    def __init__(self, reserve: int) -> None:
        self._reserve = reserve
        self._owed = 0

    @property
    def owed(self) -> int:
        """Bytes still to come that no file system has set aside."""
        return self._owed

    def count(self, session: LiveSession) -> None:
        """Bring the sum up to date after anything about this session has changed."""
        self._owed += session.owed - session.counted
        session.counted = session.owed

    def available(self, free: int) -> int:
        """What a new session could get."""
        return max(0, free - self._owed - self._reserve)

    @contextlib.contextmanager
    def opening(self, size: int, free: int) -> Iterator[None]:
        """Hold room for a session that is being opened; raises storage-full."""
        available = self.available(free)
        if size > available:
            raise storage_full(size, available)
        self._owed += size
        try:
            yield
        finally:
            self._owed -= size

    def check_chunk(self, session: LiveSession, size: int, free: int) -> None:
        """Raise storage-full where a chunk would not fit on the disk as it is now: somebody else has filled it."""
        if not session.record.reserved and size > free:
            raise storage_full(size, free)


def storage_full(required: int, available: int) -> Problem:
    """The problem, with what is needed and what is free."""
    what = f"{required} bytes are needed, {available} are free" if required else "The server's disk has no room left"
    text = f"{what}. What is stored stays stored; try again later."
    return problem(
        "storage-full",
        text,
        retry_after=FULL_RETRY_SECONDS,
        requiredBytes=required,
        availableBytes=available,
    )
