"""One chunk's body: from the pieces a connection gives to bytes in the partial, digests checked on the way.

- Nothing is read before the head was judged, and nothing is written but the bytes the chunk has claimed.
- Pieces are gathered, so that a write is worth a thread, but never much: the allowance is shared by all bodies, and
  a thousand clients trickling a chunk each hold no more memory than a few fast ones. What some hold, who have stalled
  since, the others have less: they write piece by piece.
- What comes faster than it is written stays with its clients: while as much waits for a thread as all may gather, no
  body asks for another piece than the one it waits for already.
- A body on which nothing moves for 30 s is dropped; so is, at once, every body still open when the server stops.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_right
from collections import deque
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
GATHER_ALL = 8 << 20


class BodyCut(Exception):
    """The connection ended before the body did."""


class Bodies:
    """The bodies being received, their share of memory, and the one way to drop them all."""

    def __init__(self, stall_seconds: float = STALL_SECONDS) -> None:
        self._stall_seconds = stall_seconds
        self._open: set[_Patience] = set()
        self._stopping = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.gathered = 0  # bytes, by all of them
        self._writing = 0  # of these, what is with a thread, or waits for one

    def is_enough(self, gathered: int) -> bool:
        """Whether a body that has gathered so many bytes is to write them."""
        allowance = max(GATHER_LEAST, min(GATHER_MOST, GATHER_ALL // max(1, len(self._open))))
        return gathered >= allowance or self.gathered >= GATHER_ALL

    async def room(self) -> None:
        """Wait until there is room for another piece of a body; shutting-down where the server stops meanwhile."""
        if self._writing >= GATHER_ALL:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
            if self._stopping:
                raise self.dropped()

    @contextlib.contextmanager
    def writing(self, gathered: int) -> Iterator[None]:
        """So many bytes are with a thread, or wait for one; afterwards they are gathered no more."""
        self._writing += gathered
        try:
            yield
        finally:
            self._writing -= gathered
            self.gathered -= gathered
            if self._writing < GATHER_ALL:
                self._call(2 if self._writing else len(self._waiting))

    def _call(self, number: int) -> None:
        """Let so many go on: two for one that has written, so that room is soon used again, but not by all at once; and
        where nothing is being written all, since nobody else would call them."""
        while self._waiting and number:
            turn = self._waiting.popleft()
            if not turn.done():  # cancelled
                turn.set_result(None)
                number -= 1

    def stop(self) -> None:
        """Drop every body that waits for a piece, and every other at its next wait."""
        self._stopping = True
        self._call(len(self._waiting))
        for patience in self._open:
            patience.lose()

    @contextlib.asynccontextmanager
    async def entered(self) -> AsyncIterator[_Patience]:
        """Count a body as open; TimeoutError where its patience came to an end."""
        patience = _Patience(self._stall_seconds)
        if self._stopping:
            patience.lose()
        self._open.add(patience)
        try:
            async with patience.timeout:
                yield patience
        except TimeoutError as error:
            if not patience.timeout.expired():  # a disk's own
                raise
            raise self.dropped() from error
        finally:
            patience.close()
            self._open.discard(patience)

    def dropped(self) -> Problem:
        """Why a body that got no byte in time was given up."""
        if self._stopping:
            return problem("shutting-down", "The server is stopping; send this again soon.", retry_after=5.0)
        text = f"No byte came for {self._stall_seconds:g} seconds; send this again."
        return problem("chunk-length-mismatch", text)


class _Patience:
    """How long a body may wait for its next piece. Its timer looks when the wait began, and is not set anew by each."""

    def __init__(self, seconds: float) -> None:
        self.timeout = asyncio.timeout(None)
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lost = False

    def wait(self) -> None:
        """From now on it waits for the client."""
        self._since = self._loop.time()
        if self._lost:
            self.timeout.reschedule(self._since)
        elif self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._look)

    def work(self) -> None:
        """What happens now is not the client's time."""
        self._since = None

    def lose(self) -> None:
        """Wait no longer, now or ever."""
        self._lost = True
        if self._since is not None:
            self.timeout.reschedule(self._loop.time())

    def close(self) -> None:
        """Forget the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self._since is None:
            return  # the next wait sets it
        left = self._since + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self.lose()


class Sink(Protocol):
    """Where a body goes. `take` belongs to the event loop, `write` to a thread; they take turns."""

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
        async with self._bodies.entered() as patience:
            gathered = 0
            try:
                await self._bodies.room()
                patience.wait()
                async for piece in pieces:
                    patience.work()
                    sink.take(piece)
                    gathered += len(piece)
                    self._bodies.gathered += len(piece)
                    del piece  # the sink's alone: what is written is free while the next is waited for
                    if self._bodies.is_enough(gathered):
                        handed, gathered = gathered, 0
                        with self._bodies.writing(handed):
                            await self._threads.write(sink.write)
                    await self._bodies.room()
                    patience.wait()
                patience.work()
                handed, gathered = gathered, 0
                with self._bodies.writing(handed):
                    await self._threads.write(sink.write)
            finally:
                self._bodies.gathered -= gathered


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
        for offset, pieces in self._own():
            self._partial.write(offset, *pieces)
        self.position += self.gathered_bytes
        self._gathered.clear()
        self.gathered_bytes = 0
        reached("server.chunk.written")
        self._partial.flush_soon(begin, self.position)

    def _own(self) -> Iterator[tuple[int, list[memoryview]]]:
        """What is the chunk's own to write: offsets, and the bytes that follow each without a gap, uncopied."""
        writes = self._claim.writes
        number = bisect_right(writes, self.position, key=_stop)
        begin, run = 0, list[memoryview]()
        position = self.position
        for piece in self._gathered:
            end = position + len(piece)
            while number < len(writes) and writes[number][0] < end:
                start, stop = writes[number]
                first, last = max(start, position), min(stop, end)
                if first == start and run:
                    yield begin, run
                    run = []
                if not run:
                    begin = first
                run.append(memoryview(piece)[first - position : last - position])
                if stop > end:
                    break
                number += 1
            position = end
        if run:
            yield begin, run


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
