"""One chunk's body: from its connection to bytes in the partial, digests checked on the way.

- Nothing is read before the head was judged, and nothing is written but the bytes the chunk has claimed.
- A body has a buffer of two halves: one is filled by its connection while a thread writes the other. All bodies share
  the memory for that: a few have a megabyte in each half, and of a thousand clients trickling a chunk each has little.
- What comes faster than it is written stays with its client: nothing is read but into such a buffer.
- A body on which nothing moves for 30 s is dropped; so is, at once, every body still open when the server stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
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
from chunkyd.server.threads import Threads, Work
from chunkyd.storage.base import Partial

MOST_BYTES = 1 << 20  # written at once
LEAST_BYTES = 32 << 10
ALL_BYTES = 64 << 20  # of memory for all bodies, but that each has the least
SPARE_BUFFERS = 8


class BodyCut(Exception):
    """The connection ended before the body did."""


class Bodies:
    """The bodies being received, their share of memory, and the one way to drop them all."""

    def __init__(self, stall_seconds: float = STALL_SECONDS) -> None:
        self._stall_seconds = stall_seconds
        self._open: set[_Patience] = set()
        self._stopping = False
        self._spare: list[memoryview] = []
        self.held = 0  # bytes of memory, by all of them

    @contextlib.contextmanager
    def buffers(self, most: int) -> Iterator[tuple[memoryview, memoryview]]:
        """Memory for a body of `most` bytes, in two halves: one is filled while the other is written."""
        share = ALL_BYTES // 2 // max(1, len(self._open)) if self.held < ALL_BYTES else 0
        half = max(1, min(MOST_BYTES, most, max(LEAST_BYTES, share // 2)))
        spare = half == MOST_BYTES and self._spare
        # Mapped: it begins with a page, which the kernel copies faster, and is there only once something was put in it.
        memory = self._spare.pop() if spare else memoryview(mmap.mmap(-1, 2 * half, mmap.MAP_PRIVATE))
        self.held += 2 * half
        try:
            yield memory[:half], memory[half:]
        finally:
            self.held -= 2 * half
            if half == MOST_BYTES and len(self._spare) < SPARE_BUFFERS:
                self._spare.append(memory)

    def stop(self) -> None:
        """Drop every body that waits for its client, and every other at its next wait."""
        self._stopping = True
        for patience in self._open:
            patience.lose()

    @contextlib.asynccontextmanager
    async def entered(self, body: Body, sink: Sink) -> AsyncIterator[_Patience]:
        """Count a body as open; TimeoutError where its patience came to an end."""
        patience = _Patience(self._stall_seconds, body, sink)
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

    def __init__(self, seconds: float, body: Body, sink: Sink) -> None:
        self._body = body
        self._sink = sink
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
        """Forget the timer; a word that comes late finds nobody waiting."""
        self._since = None
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self._since is None:
            return  # the next wait sets it
        left = max(self._since, self._body.moved) + self._seconds - self._loop.time()
        if left > 0 and self._sink.wants():
            self._timer = self._loop.call_later(left, self._look)
        else:
            self.lose()


class Body(Protocol):
    """A request's body, on its connection.

    `left`: bytes that were not read yet; `taken`: those that were; `moved`: when the last came, by the loop's clock.
    """

    left: int
    taken: int
    moved: float

    async def fill(self, buffer: memoryview) -> int:
        """Read until the buffer is full or the body ends; how many bytes. Fewer, and some left: the body was cut."""
        ...


async def fill_in_time(body: Body, buffer: memoryview, seconds: float) -> int:
    """`body.fill`, but TimeoutError once no byte has come for so many seconds: what is slow is not given up."""
    before = body.taken
    while True:
        try:
            async with asyncio.timeout(seconds):
                await body.fill(buffer[body.taken - before :])
        except TimeoutError:
            if asyncio.get_running_loop().time() - body.moved >= seconds:
                raise
        else:
            return body.taken - before


class Sink(Protocol):
    """Where a body goes."""

    def wants(self) -> bool:
        """Whether there is any use in more of it."""
        ...

    def write(self, piece: memoryview) -> None:
        """Do something with the next bytes, which are not there afterwards; blocks, in a thread.

        Raises BodyCut where nobody wants them.
        """
        ...


class Receiver:
    """Takes in bodies."""

    def __init__(self, bodies: Bodies, threads: Threads) -> None:
        self._bodies = bodies
        self._threads = threads

    async def receive(self, session: LiveSession, partial: Partial, claim: Claim, checker: Checker, body: Body) -> None:
        """Return when all bytes of the chunk are written and every digest matched; raises a Problem, else."""
        start, stop = claim.chunk
        writing = _Writing(session, partial, claim, checker)
        try:
            await self.pour(body, writing)
        except BodyCut as error:
            raise _cut(writing.position - start, stop - start) from error
        if writing.position != stop:
            raise _cut(writing.position - start, stop - start)
        check_digests(checker)

    async def pour(self, body: Body, sink: Sink) -> None:
        """A whole body into `sink`. Raises a Problem where it stalls, BodyCut where it ends too early."""
        async with self._bodies.entered(body, sink) as patience:
            with self._bodies.buffers(body.left) as halves:
                half, other = halves
                under_way: Work[None] | None = None
                try:
                    while body.left:
                        patience.wait()
                        count = await body.fill(half)
                        patience.work()
                        if count < len(half) and body.left:
                            raise BodyCut
                        if under_way is not None:
                            await under_way.ended()
                        under_way = self._threads.begin_write(sink.write, half[:count])
                        under_way.when_failed(patience.lose)  # and so does the wait for the other half
                        half, other = other, half
                finally:
                    if under_way is not None:
                        await under_way.ended()


class _Writing:
    """One chunk's body on its way into its partial."""

    def __init__(self, session: LiveSession, partial: Partial, claim: Claim, checker: Checker) -> None:
        self._session = session
        self._partial = partial
        self._claim = claim
        self._checker = checker
        self.position = claim.chunk[0]

    def wants(self) -> bool:
        """See `Sink`."""
        return not self._session.gone

    def write(self, piece: memoryview) -> None:
        """Check every byte, write those that are the chunk's own, and let the disk begin with them."""
        begin, end = self.position, self.position + len(piece)
        if self._session.gone or end > self._claim.chunk[1]:
            raise BodyCut
        reached("server.chunk.writing")
        self._checker.update(piece)
        writes = self._claim.writes
        for start, stop in writes[bisect_right(writes, begin, key=_stop) :]:
            if start >= end:
                break
            first, last = max(start, begin), min(stop, end)
            self._partial.write(first, piece[first - begin : last - begin])
        self.position = end
        reached("server.chunk.written")
        self._partial.flush_soon(begin, end)


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
