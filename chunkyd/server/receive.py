"""One chunk's body: from the pieces a connection gives to bytes in the partial, digests checked on the way.

- Nothing is read before the head was judged, and nothing is written but the bytes the chunk has claimed.
- Pieces are gathered, so that a write is worth a thread, but never much: the allowance is shared by all bodies, and
  a thousand clients trickling a chunk each hold no more memory than a few fast ones.
- A body on which nothing moves for 30 s is dropped; so is, at once, every body still open when the server stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

from chunkyd.checkpoints import reached
from chunkyd.errors import Problem
from chunkyd.protocol.digests import Checker
from chunkyd.protocol.messages import STALL_SECONDS
from chunkyd.protocol.problems import problem
from chunkyd.protocol.ranges import Range
from chunkyd.server.session import Claim, LiveSession
from chunkyd.server.threads import Threads
from chunkyd.storage.base import Partial

GATHER_MOST = 1 << 20
GATHER_LEAST = 64 << 10
GATHER_ALL = 32 << 20


class BodyCut(Exception):
    """The connection ended before the body did."""


class Bodies:
    """The bodies being received, their share of memory, and the one way to drop them all."""

    def __init__(self, stall_seconds: float = STALL_SECONDS) -> None:
        self._stall_seconds = stall_seconds
        self._open: set[asyncio.Timeout] = set()
        self._stopping = False

    @property
    def allowance(self) -> int:
        """How many bytes one body may gather before it writes them."""
        return max(GATHER_LEAST, min(GATHER_MOST, GATHER_ALL // max(1, len(self._open))))

    def stop(self) -> None:
        """Drop every body that waits for a piece, and every other at its next wait."""
        self._stopping = True
        for patience in self._open:
            if patience.when() is not None:
                patience.reschedule(0)

    def wait(self, patience: asyncio.Timeout) -> None:
        """The next piece must come within the stall time."""
        seconds = 0.0 if self._stopping else self._stall_seconds
        patience.reschedule(asyncio.get_running_loop().time() + seconds)

    @contextlib.contextmanager
    def entered(self, patience: asyncio.Timeout) -> Iterator[None]:
        """Count a body as open."""
        self._open.add(patience)
        try:
            yield
        finally:
            self._open.discard(patience)

    def dropped(self) -> Problem:
        """Why a body that got no byte in time was given up."""
        if self._stopping:
            return problem("shutting-down", "The server is stopping; send this again soon.", retry_after=5.0)
        text = f"No byte came for {self._stall_seconds:g} seconds; send this again."
        return problem("chunk-length-mismatch", text)


class Sink(Protocol):
    """Where a body goes. `take` belongs to the event loop, `write` to a thread; they take turns."""

    gathered_bytes: int  # taken, but not yet written

    def take(self, piece: bytes) -> None:
        """The next bytes of the body; BodyCut where nobody wants them."""
        ...

    def write(self) -> None:
        """Do something with what was gathered; blocks."""
        ...


class Receiver:
    """Takes in bodies."""

    def __init__(self, bodies: Bodies, threads: Threads) -> None:
        self._bodies = bodies
        self._threads = threads

    async def receive(
        self, session: LiveSession, partial: Partial, claim: Claim, checker: Checker, pieces: AsyncIterator[bytes]
    ) -> None:
        """Return when all bytes of the chunk are written and every digest matched; raises a Problem, else."""
        start, stop = claim.chunk
        writing = _Writing(session, partial, claim, checker)
        try:
            await self.pour(pieces, writing)
        except BodyCut as error:
            raise _cut(writing.position - start, stop - start) from error
        if writing.position != stop:
            raise _cut(writing.position - start, stop - start)
        check_digests(checker)

    async def pour(self, pieces: AsyncIterator[bytes], sink: Sink) -> None:
        """A whole body into `sink`. Raises a Problem where it stalls, BodyCut where it ends too early or too late."""
        patience = asyncio.timeout(None)
        try:
            async with patience:
                with self._bodies.entered(patience):
                    await self._pour(pieces, sink, patience)
        except TimeoutError as error:
            if not patience.expired():  # a disk's own
                raise
            raise self._bodies.dropped() from error

    async def _pour(self, pieces: AsyncIterator[bytes], sink: Sink, patience: asyncio.Timeout) -> None:
        """Gather and write; the time a write takes is not the client's."""
        self._bodies.wait(patience)
        async for piece in pieces:
            sink.take(piece)
            if sink.gathered_bytes >= self._bodies.allowance:
                patience.reschedule(None)
                await self._threads.write(sink.write)
            self._bodies.wait(patience)
        patience.reschedule(None)
        await self._threads.write(sink.write)


class _Writing:
    """One chunk's body on its way into its partial."""

    def __init__(self, session: LiveSession, partial: Partial, claim: Claim, checker: Checker) -> None:
        self._session = session
        self._partial = partial
        self._claim = claim
        self._checker = checker
        self._gathered: list[bytes] = []
        self.gathered_bytes = 0
        self.position = claim.chunk[0]

    def take(self, piece: bytes) -> None:
        """The next bytes of the body."""
        self.gathered_bytes += len(piece)
        if self._session.gone or self.position + self.gathered_bytes > self._claim.chunk[1]:
            raise BodyCut
        self._gathered.append(piece)

    def write(self) -> None:
        """Check every byte, write those that are the chunk's own, and let the disk begin with them."""
        begin = self.position
        reached("server.chunk.writing")
        for piece in self._gathered:
            self._checker.update(piece)
            self._write_own(piece)
            self.position += len(piece)
        self._gathered.clear()
        self.gathered_bytes = 0
        reached("server.chunk.written")
        self._partial.flush_soon(begin, self.position)

    def _write_own(self, piece: bytes) -> None:
        begin, end = self.position, self.position + len(piece)
        writes = self._claim.writes
        for start, stop in itertools.islice(writes, bisect_right(writes, begin, key=_stop), None):
            if start >= end:
                break
            first, last = max(start, begin), min(stop, end)
            self._partial.write(first, memoryview(piece)[first - begin : last - begin])


def check_digests(checker: Checker) -> None:
    """Raises chunk-digest-mismatch where the body that was followed is not the one announced."""
    wrong = checker.mismatches()
    if wrong:
        text = f"The {' and '.join(wrong)} of the bytes received is not the one announced; send this body again."
        raise problem("chunk-digest-mismatch", text)


def _stop(piece: Range) -> int:
    return piece[1]


def _cut(received: int, wanted: int) -> Problem:
    text = f"The body ended after {received} of {wanted} bytes; nothing of it counts, send this chunk again."
    return problem("chunk-length-mismatch", text)
